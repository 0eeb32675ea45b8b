package kernel

// Rules from the kernel's expressions.

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// decodeRule returns the rule whose encoding is the expressions, or an nft.Opaque if there is none.
//
// It guesses a rule from the kinds of the expressions and encodes the guess again: a rule is accepted only if its encoding
// is exactly what the kernel has. So the details need not be checked here, and a rule of another program is never taken for
// one of nfproxy.
func decodeRule(f nft.Family, exprs []expr.Any) nft.Rule {
	r := guessRule(f, exprs)
	if r.Do != nil {
		if again, err := encodeRule(f, r); err == nil && reflect.DeepEqual(again, exprs) {
			return r
		}
	}
	return nft.Rule{Do: nft.Opaque{Text: describe(exprs)}}
}

// guessRule returns the rule that the expressions are most like. Its Do is nil if they are not like any.
func guessRule(f nft.Family, exprs []expr.Any) (r nft.Rule) {
	var key []nft.Field // the fields that are loaded and not looked up yet
	for i, e := range exprs {
		last := i == len(exprs)-1
		switch e := e.(type) {
		case *expr.Payload, *expr.Meta, *expr.Numgen, *expr.Ct:
			key = append(key, fieldOf(f, e))
		case *expr.Hash:
			key = hashed(f, key, e)
		case *expr.Lookup:
			switch {
			case e.IsDestRegSet && last:
				r.Do = nft.VerdictMap{Key: key, Map: e.SetName}
			case e.IsDestRegSet:
				r.Do = nft.DNAT{Key: key, Map: e.SetName}
			default:
				r.Match = append(r.Match, nft.In{Key: key, Set: e.SetName, Not: e.Invert})
			}
			key = nil
		case *expr.Cmp:
			m := guessMatch(exprs[:i], e)
			if _, ping := m.(nft.EchoRequest); ping && len(r.Match) > 0 { // it includes the match of the protocol before
				r.Match = r.Match[:len(r.Match)-1]
			}
			r.Match = append(r.Match, m)
			key = nil
		case *expr.Dynset:
			switch {
			case e.SrcRegData == 0:
				r.Match = append(r.Match, nft.OverLimit{Key: key, Set: e.SetName, Timeout: e.Timeout})
				key = nil
			case len(key) > 1: // nfproxy's rules have a key of one field
				r.Do = nft.Update{Key: key[:1], Data: key[1:], Map: e.SetName, Timeout: e.Timeout}
			}
		case *expr.Counter:
			r.Match = append(r.Match, nft.CounterStatement{Counter: nft.Counter{Packets: e.Packets, Bytes: e.Bytes}})
		case *expr.Verdict:
			v := nft.Verdict{Kind: VerdictOf(int32(e.Kind)), Chain: e.Chain}
			if update, ok := r.Do.(nft.Update); ok {
				update.Then = v
				r.Do = update
			} else {
				r.Do = v
			}
		case *expr.Reject:
			r.Do = nft.Reject{TCPReset: e.Type == unix.NFT_REJECT_TCP_RST}
		case *expr.Redir:
			r.Do = nft.Redirect{}
		case *expr.Masq:
			r.Do = nft.Masquerade{}
		}
	}
	return r
}

// hashed returns fields of which the last ones, the source address and maybe the source port, are replaced by their hash.
func hashed(f nft.Family, key []nft.Field, e *expr.Hash) []nft.Field {
	field, loaded := nft.Field{Kind: nft.ClientHash, Mod: e.Modulus}, 1
	if e.Length > addrLen(f) {
		field.Kind, loaded = nft.ConnectionHash, 2
	}
	return append(key[:max(0, len(key)-loaded)], field)
}

// guessMatch returns the match that ends with a comparison.
func guessMatch(before []expr.Any, cmp *expr.Cmp) nft.Match {
	if len(before) > 0 {
		if m, ok := before[len(before)-1].(*expr.Meta); ok && m.Key == expr.MetaKeyIIFNAME {
			return nft.InputInterface{Name: string(bytes.TrimRight(cmp.Data, "\x00")), Prefix: len(cmp.Data) < unix.IFNAMSIZ,
				Not: cmp.Op == expr.CmpOpNeq}
		}
	}
	if len(before) > 0 {
		switch e := before[len(before)-1].(type) {
		case *expr.Payload:
			return nft.EchoRequest{}
		case *expr.Fib:
			if e.FlagDADDR {
				return nft.FibDestinationLocal{Not: cmp.Op == expr.CmpOpNeq}
			}
			return nft.FibSourceLocal{}
		}
	}
	if len(cmp.Data) == 1 {
		return nft.OfProtocol{Protocol: nft.Protocol(cmp.Data[0])}
	}
	return nft.CtStatusDNAT{}
}

// fieldOf returns the field that an expression loads, the zero Field if it loads anything else.
func fieldOf(f nft.Family, e expr.Any) nft.Field {
	if n, ok := e.(*expr.Numgen); ok {
		return nft.Field{Kind: nft.RandomNumber, Mod: n.Modulus}
	}
	for k := nft.SourceAddr; k <= nft.PacketDirection; k++ {
		ours, _, err := loadOne(f, nft.Field{Kind: k}, loadedTo(e))
		if err == nil && reflect.DeepEqual(ours, e) {
			return nft.Field{Kind: k}
		}
	}
	return nft.Field{}
}

// loadedTo returns the register into which an expression loads.
func loadedTo(e expr.Any) uint32 {
	switch e := e.(type) {
	case *expr.Payload:
		return e.DestRegister
	case *expr.Meta:
		return e.Register
	case *expr.Ct:
		return e.Register
	}
	return 0
}

// describe names the expressions of an opaque rule.
func describe(exprs []expr.Any) string {
	names := make([]string, len(exprs))
	for i, e := range exprs {
		if u, ok := e.(unknownExpr); ok {
			names[i] = u.name
			continue
		}
		names[i] = strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", e), "*expr."))
	}
	return "foreign rule: " + strings.Join(names, ", ")
}

// unknownExpr is an expression of a kind that decodeExpr does not know.
type unknownExpr struct {
	expr.Any
	name string
}

// decodeExprs decodes the expressions of a rule (NFTA_RULE_EXPRESSIONS).
func decodeExprs(f nft.Family, list []byte) []expr.Any {
	var exprs []expr.Any
	for _, elem := range nlmsg.Attributes(list) {
		var name string
		var data []byte
		for kind, b := range nlmsg.Attributes(elem) {
			switch kind {
			case unix.NFTA_EXPR_NAME:
				name = nlmsg.CString(b)
			case unix.NFTA_EXPR_DATA:
				data = b
			}
		}
		if name == "byteorder" && hasNoEffect(data) {
			continue
		}
		exprs = append(exprs, decodeExpr(f, name, data))
	}
	return exprs
}

// hasNoEffect reports whether a byteorder expression changes nothing because its data are shorter than one number
// (nft_byteorder_eval in net/netfilter/nft_byteorder.c). nft writes such an expression for l4proto, one byte, in a
// concatenation of intervals.
func hasNoEffect(data []byte) bool {
	var size, length uint64
	for kind, b := range nlmsg.Attributes(data) {
		switch kind {
		case unix.NFTA_BYTEORDER_SIZE:
			size = nlmsg.Number(b)
		case unix.NFTA_BYTEORDER_LEN:
			length = nlmsg.Number(b)
		}
	}
	return length < size
}

// decodeImmediate decodes an immediate expression. It returns false unless the expression is a verdict; otherwise it loads a
// number into a register.
func decodeImmediate(data []byte) (*expr.Verdict, bool) {
	for kind, b := range nlmsg.Attributes(data) {
		if kind != unix.NFTA_IMMEDIATE_DATA {
			continue
		}
		for kind, b := range nlmsg.Attributes(b) {
			if kind != unix.NFTA_DATA_VERDICT {
				continue
			}
			v := &expr.Verdict{}
			for kind, b := range nlmsg.Attributes(b) {
				switch kind {
				case unix.NFTA_VERDICT_CODE:
					v.Kind = expr.VerdictKind(int32(nlmsg.Number(b)))
				case unix.NFTA_VERDICT_CHAIN:
					v.Chain = nlmsg.CString(b)
				}
			}
			return v, true
		}
	}
	return nil, false
}

func decodeExpr(f nft.Family, name string, data []byte) expr.Any {
	var e expr.Any
	switch name {
	case "payload":
		e = &expr.Payload{}
	case "meta":
		e = &expr.Meta{}
	case "numgen":
		e = &expr.Numgen{}
	case "hash":
		e = &expr.Hash{}
	case "ct":
		e = &expr.Ct{}
	case "fib":
		e = &expr.Fib{}
	case "lookup":
		e = &expr.Lookup{}
	case "cmp":
		e = &expr.Cmp{}
	case "bitwise":
		e = &expr.Bitwise{}
	case "immediate":
		if v, ok := decodeImmediate(data); ok {
			return v
		}
		return unknownExpr{name: name}
	case "dynset":
		e = &expr.Dynset{}
	case "nat":
		e = &expr.NAT{}
	case "reject":
		e = &expr.Reject{}
	case "redir":
		e = &expr.Redir{}
	case "masq":
		e = &expr.Masq{}
	case "counter":
		e = &expr.Counter{}
	default:
		return unknownExpr{name: name}
	}
	if err := expr.Unmarshal(f.Number(), data, e); err != nil {
		return unknownExpr{name: name}
	}
	return e
}
