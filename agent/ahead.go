package agent

import "nfproxy/nft"

// tablesAhead are tables that were read before the source reported anything. A restart has to read what an earlier process
// programmed, and the source takes time to list the Services: the daemon does both at once.
//
// The first attempt may use them however old they are: a change by another program is notified, and drops them. If the notification
// is still on its way, it leads to a repair, as after every read. See docs/design/0011-reads-under-commits.md.
type tablesAhead struct{ tables []*nft.Table }

// readAhead reads the tables. After an error the first attempt reads them again, and reports the error if it remains.
func (d *daemon) readAhead() {
	if tables, _, err := d.kernel.ReadReachable(d.tables...); err == nil {
		d.ahead = &tablesAhead{tables}
	}
}

// readTables reads the tables for an attempt to program them. Elements to which nothing leads do no harm: before the daemon is in sync
// they are left out if it takes long to find them, unless that was wrong. A later comparison finds them.
func (d *daemon) readTables(first bool) (tables []*nft.Table, err error) {
	if ahead := d.ahead; ahead != nil {
		d.ahead = nil
		return ahead.tables, nil
	}
	read := d.kernel.Read
	if first && !d.synced {
		read = d.kernel.ReadReachable
	}
	tables, _, err = read(d.tables...)
	return tables, err
}
