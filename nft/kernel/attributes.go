package kernel

// Attributes and flags that golang.org/x/sys/unix lacks (include/uapi/linux/netfilter/nf_tables.h).
const (
	setDescConcat   = 2  // NFTA_SET_DESC_CONCAT
	setFieldLen     = 1  // NFTA_SET_FIELD_LEN
	setExpr         = 17 // NFTA_SET_EXPR
	setFlagConcat   = 0x80
	elemKeyEnd      = 10 // NFTA_SET_ELEM_KEY_END
	elemExpressions = 11 // NFTA_SET_ELEM_EXPRESSIONS
	setExpressions  = 18 // NFTA_SET_EXPRESSIONS
	setCount        = 20 // NFTA_SET_COUNT: Linux 6.18 has it, 6.12 has not
	elemCatchAll    = 2  // NFT_SET_ELEM_CATCHALL
	chainFlags      = 10 // NFTA_CHAIN_FLAGS
	chainBinding    = 4  // NFT_CHAIN_BINDING
	tableUserdata   = 6  // NFTA_TABLE_USERDATA
	tableOwner      = 2  // NFT_TABLE_F_OWNER
	tableOwnerID    = 7  // NFTA_TABLE_OWNER
)
