package compare

import (
	"testing"

	"nfproxy/integration/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m, map[string]func(){otherUser: transactUntilEOF}) }
