//! Numbers of the nf_tables netlink interface, from the kernel's `include/uapi/linux/netfilter/nf_tables.h`,
//! `nfnetlink.h` and `nf_conntrack_common.h`, under the names they have there without their prefix.

/// `NFNL_SUBSYS_NFTABLES`: the upper byte of every message type.
pub const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
pub const BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`.
pub const BATCH_END: u16 = 17;
/// `NFPROTO_UNSPEC`: every family.
pub const FAMILY_ANY: u8 = 0;
/// `NFPROTO_INET`.
pub const FAMILY_INET: u8 = 1;
/// `NFPROTO_IPV4`.
pub const FAMILY_IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
pub const FAMILY_IPV6: u8 = 10;
/// `NFNL_BATCH_GENID`: the transaction is refused with ERESTART if the ruleset is of another generation.
pub const BATCH_GENERATION: u16 = 1;

/// `enum nf_tables_msg_types`.
pub mod msg {
    pub const NEWTABLE: u16 = 0;
    pub const GETTABLE: u16 = 1;
    pub const DELTABLE: u16 = 2;
    pub const NEWCHAIN: u16 = 3;
    pub const GETCHAIN: u16 = 4;
    pub const DELCHAIN: u16 = 5;
    pub const NEWRULE: u16 = 6;
    pub const GETRULE: u16 = 7;
    pub const DELRULE: u16 = 8;
    pub const NEWSET: u16 = 9;
    pub const GETSET: u16 = 10;
    pub const DELSET: u16 = 11;
    pub const NEWSETELEM: u16 = 12;
    pub const GETSETELEM: u16 = 13;
    pub const DELSETELEM: u16 = 14;
    pub const NEWGEN: u16 = 15;
    pub const GETGEN: u16 = 16;
    pub const NEWOBJ: u16 = 18;
    pub const GETOBJ: u16 = 19;
    pub const DELOBJ: u16 = 20;
    pub const NEWFLOWTABLE: u16 = 22;
    pub const GETFLOWTABLE: u16 = 23;
}

/// `enum nft_table_attributes`.
pub mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const USERDATA: u16 = 6;
    /// The netlink port of the owner, where there is one.
    pub const OWNER: u16 = 7;
    pub const FLAG_DORMANT: u32 = 1;
    pub const FLAG_OWNER: u32 = 2;
    pub const FLAG_PERSIST: u32 = 4;
}

/// `enum nft_gen_attributes`.
pub mod generation {
    pub const ID: u16 = 1;
    pub const PROC_PID: u16 = 2;
    pub const PROC_NAME: u16 = 3;
}

/// `enum nft_chain_attributes` and `enum nft_hook_attributes`.
pub mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
    pub const COUNTERS: u16 = 8;
    pub const USERDATA: u16 = 12;
    pub const HOOK_HOOKNUM: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
}

/// `enum nft_rule_attributes` and `enum nft_list_attributes`, `enum nft_expr_attributes`.
pub mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const EXPRESSIONS: u16 = 4;
    pub const USERDATA: u16 = 7;
    pub const LIST_ELEM: u16 = 1;
    pub const EXPR_NAME: u16 = 1;
    pub const EXPR_DATA: u16 = 2;
}

/// `enum nft_set_attributes` and what hangs below it.
pub mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LEN: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LEN: u16 = 7;
    pub const DESC: u16 = 9;
    pub const ID: u16 = 10;
    pub const TIMEOUT: u16 = 11;
    pub const USERDATA: u16 = 13;
    /// How many elements there are, on kernels that say so.
    pub const COUNT: u16 = 20;
    pub const DESC_SIZE: u16 = 1;
    pub const FLAG_ANONYMOUS: u32 = 1;
    pub const FLAG_CONSTANT: u32 = 2;
    pub const FLAG_MAP: u32 = 8;
    pub const FLAG_TIMEOUT: u32 = 16;
}

/// `enum nft_set_elem_list_attributes` and `enum nft_set_elem_attributes`.
pub mod elem {
    pub const LIST_TABLE: u16 = 1;
    pub const LIST_SET: u16 = 2;
    pub const LIST_ELEMENTS: u16 = 3;
    pub const LIST_SET_ID: u16 = 4;
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const USERDATA: u16 = 6;
}

/// `enum nft_object_attributes` and `enum nft_counter_attributes`.
pub mod object {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const TYPE: u16 = 3;
    pub const DATA: u16 = 4;
    pub const USERDATA: u16 = 8;
    pub const TYPE_COUNTER: u32 = 1;
    pub const COUNTER_BYTES: u16 = 1;
    pub const COUNTER_PACKETS: u16 = 2;
}

/// `enum nft_flowtable_attributes`.
pub mod flowtable {
    pub const TABLE: u16 = 1;
}

/// `enum nft_data_attributes` and `enum nft_verdict_attributes`.
pub mod data {
    pub const VALUE: u16 = 1;
    pub const VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
    pub const VERDICT_CHAIN: u16 = 2;
    /// `NFT_GOTO`.
    pub const GOTO: i32 = -4;
    /// `NFT_RETURN`.
    pub const RETURN: i32 = -5;
    /// `NF_DROP`, as the code of a verdict.
    pub const DROP: i32 = 0;
    /// `NF_ACCEPT`.
    pub const ACCEPT: u32 = 1;
    /// `NFT_DATA_VERDICT`, as a set's data type.
    pub const TYPE_VERDICT: u32 = 0xffff_ff00;
}

/// Registers of 16 bytes: `NFT_REG_VERDICT`, `NFT_REG_1`, `NFT_REG_2`; and of 4: `NFT_REG32_01`, the second of those that
/// `NFT_REG_1` is made of.
pub mod reg {
    pub const VERDICT: u32 = 0;
    pub const R1: u32 = 1;
    pub const R2: u32 = 2;
    pub const R1_SECOND_WORD: u32 = 9;
}

/// Attributes and keys of the expressions, by the expression's name.
pub mod expr {
    pub const META_DREG: u16 = 1;
    pub const META_KEY: u16 = 2;
    pub const META_OIFNAME: u32 = 7;
    pub const META_NFPROTO: u32 = 15;
    pub const META_L4PROTO: u32 = 16;

    pub const CMP_SREG: u16 = 1;
    pub const CMP_OP: u16 = 2;
    pub const CMP_DATA: u16 = 3;
    pub const CMP_EQ: u32 = 0;
    pub const CMP_NEQ: u32 = 1;

    pub const PAYLOAD_DREG: u16 = 1;
    pub const PAYLOAD_BASE: u16 = 2;
    pub const PAYLOAD_OFFSET: u16 = 3;
    pub const PAYLOAD_LEN: u16 = 4;
    pub const PAYLOAD_NETWORK_HEADER: u32 = 1;
    pub const PAYLOAD_TRANSPORT_HEADER: u32 = 2;

    pub const BITWISE_SREG: u16 = 1;
    pub const BITWISE_DREG: u16 = 2;
    pub const BITWISE_LEN: u16 = 3;
    pub const BITWISE_MASK: u16 = 4;
    pub const BITWISE_XOR: u16 = 5;

    pub const CT_DREG: u16 = 1;
    pub const CT_KEY: u16 = 2;
    pub const CT_DIRECTION: u16 = 3;
    /// `NFT_CT_DIRECTION`; the attribute of the same name says which tuple a key is of.
    pub const CT_STATE: u32 = 0;
    pub const CT_DIRECTION_KEY: u32 = 1;
    pub const CT_STATUS: u32 = 2;
    pub const CT_PROTO_SRC: u32 = 11;
    pub const CT_PROTO_DST: u32 = 12;
    pub const CT_SRC_IP: u32 = 19;
    pub const CT_DST_IP: u32 = 20;
    pub const CT_SRC_IP6: u32 = 21;
    pub const CT_DST_IP6: u32 = 22;
    /// `IP_CT_DIR_ORIGINAL`.
    pub const CT_ORIGINAL: u8 = 0;
    /// `IP_CT_DIR_REPLY`.
    pub const CT_REPLY: u8 = 1;
    /// `IPS_DST_NAT`.
    pub const CT_STATUS_DNAT: u32 = 1 << 5;

    pub const FIB_DREG: u16 = 1;
    pub const FIB_RESULT: u16 = 2;
    pub const FIB_FLAGS: u16 = 3;
    pub const FIB_RESULT_ADDRTYPE: u32 = 3;
    pub const FIB_SADDR: u32 = 1;
    pub const FIB_DADDR: u32 = 1 << 1;
    pub const FIB_OIF: u32 = 1 << 4;
    /// `RTN_LOCAL`.
    pub const FIB_TYPE_LOCAL: u32 = 2;

    pub const IMMEDIATE_DREG: u16 = 1;
    pub const IMMEDIATE_DATA: u16 = 2;

    pub const NAT_TYPE: u16 = 1;
    pub const NAT_FAMILY: u16 = 2;
    pub const NAT_REG_ADDR_MIN: u16 = 3;
    pub const NAT_REG_PROTO_MIN: u16 = 5;
    pub const NAT_FLAGS: u16 = 7;
    pub const NAT_SNAT: u32 = 0;
    pub const NAT_DNAT: u32 = 1;
    /// `NF_NAT_RANGE_PROTO_SPECIFIED`.
    pub const NAT_PROTO_SPECIFIED: u32 = 2;

    pub const REJECT_TYPE: u16 = 1;
    pub const REJECT_CODE: u16 = 2;
    /// `NFT_REJECT_TCP_RST`.
    pub const REJECT_TCP_RST: u32 = 1;

    pub const OBJREF_TYPE: u16 = 1;
    pub const OBJREF_NAME: u16 = 2;

    pub const NUMGEN_DREG: u16 = 1;
    pub const NUMGEN_MODULUS: u16 = 2;
    pub const NUMGEN_TYPE: u16 = 3;
    pub const NUMGEN_OFFSET: u16 = 4;
    pub const NUMGEN_RANDOM: u32 = 1;

    pub const HASH_SREG: u16 = 1;
    pub const HASH_DREG: u16 = 2;
    pub const HASH_LEN: u16 = 3;
    pub const HASH_MODULUS: u16 = 4;
    pub const HASH_SEED: u16 = 5;
    pub const HASH_OFFSET: u16 = 6;
    pub const HASH_TYPE: u16 = 7;
    pub const HASH_JENKINS: u32 = 0;

    pub const LOOKUP_SET: u16 = 1;
    pub const LOOKUP_SREG: u16 = 2;
    pub const LOOKUP_DREG: u16 = 3;
    pub const LOOKUP_SET_ID: u16 = 4;
}

/// Userdata that nft stores beside objects: `libnftnl/udata.h`. Type, length, value, one byte each for the first two.
pub mod udata {
    /// Comment of a table, chain, rule, set element or object.
    pub const COMMENT: u8 = 0;
    pub const SET_KEY_BYTEORDER: u8 = 0;
    pub const SET_DATA_BYTEORDER: u8 = 1;
    pub const SET_DATA_TYPEOF: u8 = 4;
    pub const SET_DATA_INTERVAL: u8 = 6;
    pub const SET_COMMENT: u8 = 7;
    pub const TYPEOF_EXPR: u8 = 0;
    pub const TYPEOF_DATA: u8 = 1;
    /// nft's `BYTEORDER_HOST_ENDIAN`.
    pub const HOST_ENDIAN: u32 = 1;
    /// nft's `EXPR_VERDICT`.
    pub const EXPR_VERDICT: u32 = 1;
    /// nft's `TYPE_INTEGER`, as a set's key type.
    pub const TYPE_INTEGER: u32 = 4;
    /// nft's `TYPE_IPADDR`, `TYPE_IP6ADDR` and `TYPE_INET_SERVICE`; a concatenation has one beside the other.
    pub const TYPE_IPV4: u32 = 7;
    pub const TYPE_IPV6: u32 = 8;
    pub const TYPE_SERVICE: u32 = 13;
    /// nft's `TYPE_BITS`.
    pub const TYPE_BITS: u32 = 6;
}
