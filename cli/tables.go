package cli

import (
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/report"
)

// readTables reads the tables of an instance from the kernel.
func readTables(i render.Instance) ([]*nft.Table, error) {
	k, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	tables, _, err := k.Read(i.TableIDs()...)
	return tables, err
}

// readDescribed reads only what report.Describe needs, which is faster with many Services.
func readDescribed(i render.Instance) ([]*nft.Table, error) {
	var k [2]*kernel.Conn
	for n := range k {
		var err error
		if k[n], err = kernel.Open(); err != nil {
			return nil, err
		}
		defer k[n].Close()
	}
	return k[0].ReadReferenced(k[1], report.DescribedSets(), report.Slots(i), i.TableIDs()...)
}
