package cli

import (
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/report"
)

// readTables reads nfproxy's tables from the kernel.
func readTables() ([]*nft.Table, error) {
	k, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	tables, _, err := k.Read(render.TableIDs()...)
	return tables, err
}

// readDescribed reads only what report.Describe needs, which is faster with many Services.
func readDescribed() ([]*nft.Table, error) {
	var k [2]*kernel.Conn
	for i := range k {
		var err error
		if k[i], err = kernel.Open(); err != nil {
			return nil, err
		}
		defer k[i].Close()
	}
	return k[0].ReadReferenced(k[1], report.DescribedSets(), report.Slots, render.TableIDs()...)
}
