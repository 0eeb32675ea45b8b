package zpages

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// statusz is the object of /statusz (k8s.io/apiserver/pkg/server/statusz/api). nfproxy emulates no version of Kubernetes, so it has no
// emulationVersion.
type statusz struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	StartTime         metav1.Time `json:"startTime"`
	UptimeSeconds     int64       `json:"uptimeSeconds"`
	GoVersion         string      `json:"goVersion"`
	BinaryVersion     string      `json:"binaryVersion"`
	Paths             []string    `json:"paths"`
}

// Statusz returns the handler of /statusz. version is nfproxy's, and paths are those of the other pages of the server.
func Statusz(version string, paths []string) http.Handler {
	started := time.Now()
	paths = folders(paths)
	return page{
		name: "statusz",
		kind: "Statusz",
		lines: func() [][2]string {
			start := processStart(started)
			up := uptime(start)
			return [][2]string{
				{},
				{"Started", " " + start.Format(time.UnixDate)},
				{"Up", fmt.Sprintf(" %d hr %02d min %02d sec", up/3600, up/60%60, up%60)},
				{"Go version", " " + runtime.Version()},
				{"Binary version", " " + version},
				{},
				{"Paths", " " + strings.Join(paths, " ")},
			}
		},
		object: func(kind metav1.TypeMeta, meta metav1.ObjectMeta) any {
			start := processStart(started)
			return statusz{kind, meta, metav1.NewTime(start), uptime(start), runtime.Version(), version, paths}
		},
	}
}

// folders returns the first parts of paths, each once and sorted: /debug for /debug/pprof/profile.
func folders(paths []string) []string {
	var all []string
	for _, path := range paths {
		folder, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		all = append(all, "/"+folder)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// processStart returns the time when the process started by the present clock, which may have been set since, or another time if
// /proc does not tell.
func processStart(otherwise time.Time) time.Time {
	self, err := procfs.Self()
	if err != nil {
		return otherwise
	}
	stat, err := self.Stat()
	if err != nil {
		return otherwise
	}
	seconds, err := stat.StartTime()
	if err != nil {
		return otherwise
	}
	return time.Unix(int64(seconds), 0)
}

// uptime returns the whole seconds since a time.
func uptime(start time.Time) int64 { return max(0, int64(time.Since(start).Seconds())) }
