//! [`Table`] -> netlink messages: the batch of one transaction, and the requests for dumps. Pure.
//!
//! In: the table to install, and what is in the kernel now. Out: bytes for [`super::socket`]. Replacing keeps the
//! table, its base chains, and the counters and sets that are still wanted, and remakes the rest, all in one commit: a flow
//! sees either the old rules or the new ones, and nat never unhooks.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};

use super::decode::{Count, ObservedTable, SetShape, WORD};
use super::expressions;
use super::table::{
    ANONYMOUS_MAP, Action, Chain, Counter, Element, Ownership, Rule, Set, TABLE_NAME, Table, Target,
};
use super::uapi::{
    BATCH_BEGIN, BATCH_END, BATCH_GENERATION, FAMILY_ANY, FAMILY_INET, SUBSYSTEM, chain, data, elem, msg,
    object, rule, set, table, udata,
};
use crate::netlink::message::{self, Attr, be32, be64, bytes, emit, nest, octets, string};

/// Elements in one message: a netlink attribute holds 64 KiB, an element with its comment at most 500 bytes.
const ELEMENTS_PER_MESSAGE: usize = 100;

/// One message of a batch and what it is for, to be named when the kernel refuses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the message does, such as `add chain nat-output`.
    pub what: String,
    kind: u16,
    flags: u16,
    attrs: Vec<u8>,
}

/// Bytes of one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The messages, aligned, one after the other.
    pub bytes: Vec<u8>,
    /// What each message does; the first has sequence number `first_sequence + 1`.
    pub steps: Vec<String>,
    /// Sequence number of the message that begins the batch.
    pub first_sequence: u32,
}

/// The steps that turn `observed` into `table`, with this owner.
pub fn replace(table: &Table, observed: &ObservedTable, ownership: Ownership) -> Vec<Step> {
    let mut steps = Vec::new();
    let wanted: BTreeSet<&str> = table.counters.iter().map(|c| c.name.as_str()).collect();
    let in_place = observed.exists
        && !observed.foreign
        && table.sets.iter().all(|set| observed.has_place_for(set))
        && observed.has_base_chains_of(table)
        && ownership.fits(observed.flags);
    // The new nat chains are hooked in before the old ones are let go, so nat never unhooks here either.
    if observed.exists && !in_place {
        steps.push(delete_table());
    }
    steps.push(add_table(table, ownership));
    if in_place {
        steps.push(flush_rules());
        steps.extend(observed.regular_chains().map(delete_chain));
        steps.extend(
            observed.counters.keys().filter(|c| !wanted.contains(c.as_str())).map(|c| delete_counter(c)),
        );
    }
    if in_place {
        let is_wanted = |name: &str| table.sets.iter().any(|set| set.name == name);
        steps.extend(observed.sets.keys().filter(|name| !is_wanted(name)).map(|name| delete_set(name)));
    }
    // Ids of sets, unique within the transaction.
    let mut id = 0;
    for set in &table.sets {
        if !(in_place && observed.sets.contains_key(&set.name)) {
            id += 1;
            steps.push(add_set(set, id));
        }
        steps.extend(fill_set(&set.name, set.elements.iter()));
    }
    let kept = |c: &Counter| observed.counters.get(&c.name).copied();
    steps.extend(table.counters.iter().map(|c| add_counter(c, kept(c).unwrap_or_default())));
    let present = |c: &&Chain| in_place && c.hook.is_some();
    steps.extend(table.chains.iter().filter(|c| !present(c)).map(add_chain));
    for chain in &table.chains {
        for rule in &chain.rules {
            if let Action::Balance { targets, .. } = &rule.action {
                id += 1;
                steps.push(add_map(id, targets.len()));
                steps.extend(add_elements(id, targets));
            }
            steps.push(add_rule(chain, rule, id));
        }
    }
    steps
}

/// The steps that remove the table, if `observed` says that there is one.
pub fn remove(observed: &ObservedTable) -> Vec<Step> {
    observed.exists.then(delete_table).into_iter().collect()
}

/// Frames `steps` as one transaction. The last step asks for an acknowledgement. `generation`: it is to be refused if
/// anybody changed any rule since.
pub fn batch(steps: &[Step], first_sequence: u32, generation: Option<u32>) -> Batch {
    let mut bytes = Vec::new();
    // The resource id of a batch is the subsystem that it is for, in network byte order.
    let since = emit(&generation.map(|g| be32(BATCH_GENERATION, g)).into_iter().collect::<Vec<_>>());
    push(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, first_sequence, 0, SUBSYSTEM, &since);
    let mut sequence = first_sequence;
    for (index, step) in steps.iter().enumerate() {
        sequence = sequence.wrapping_add(1);
        let ack = if index + 1 == steps.len() { NLM_F_ACK } else { 0 };
        let kind = (SUBSYSTEM << 8) | step.kind;
        push(&mut bytes, kind, NLM_F_REQUEST | step.flags | ack, sequence, FAMILY_INET, 0, &step.attrs);
    }
    push(&mut bytes, BATCH_END, NLM_F_REQUEST, sequence.wrapping_add(1), 0, SUBSYSTEM, &[]);
    Batch { bytes, steps: steps.iter().map(|s| s.what.clone()).collect(), first_sequence }
}

/// `struct nlmsghdr`, `struct nfgenmsg` and attributes.
pub(super) fn push(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    attrs: &[u8],
) {
    let [high, low] = resource.to_be_bytes();
    message::write(out, kind, flags, sequence, &[&[family, 0, high, low], attrs]);
}

fn step(what: String, kind: u16, flags: u16, attrs: &[Attr]) -> Step {
    Step { what, kind, flags, attrs: emit(attrs) }
}

fn delete_table() -> Step {
    step(format!("delete table inet {TABLE_NAME}"), msg::DELTABLE, 0, &[string(table::NAME, TABLE_NAME)])
}

fn add_table(table: &Table, ownership: Ownership) -> Step {
    step(
        format!("add table inet {TABLE_NAME}"),
        msg::NEWTABLE,
        NLM_F_CREATE,
        &[
            string(table::NAME, TABLE_NAME),
            be32(table::FLAGS, ownership.flags()),
            comment(table::USERDATA, table.comment),
        ],
    )
}

fn flush_rules() -> Step {
    step("flush the rules".to_owned(), msg::DELRULE, 0, &[string(rule::TABLE, TABLE_NAME)])
}

fn delete_chain(name: &str) -> Step {
    step(
        format!("delete chain {name}"),
        msg::DELCHAIN,
        0,
        &[string(chain::TABLE, TABLE_NAME), string(chain::NAME, name)],
    )
}

fn delete_counter(name: &str) -> Step {
    step(
        format!("delete counter {name}"),
        msg::DELOBJ,
        0,
        &[
            string(object::TABLE, TABLE_NAME),
            string(object::NAME, name),
            be32(object::TYPE, object::TYPE_COUNTER),
        ],
    )
}

/// Adding a counter that exists changes nothing; a new one starts at `count`.
fn add_counter(counter: &Counter, count: Count) -> Step {
    step(
        format!("add counter {}", counter.name),
        msg::NEWOBJ,
        NLM_F_CREATE,
        &[
            string(object::TABLE, TABLE_NAME),
            string(object::NAME, &counter.name),
            be32(object::TYPE, object::TYPE_COUNTER),
            comment(object::USERDATA, &counter.comment),
            nest(
                object::DATA,
                &[be64(object::COUNTER_BYTES, count.bytes), be64(object::COUNTER_PACKETS, count.packets)],
            ),
        ],
    )
}

fn add_chain(chain: &Chain) -> Step {
    let mut attrs = vec![string(chain::TABLE, TABLE_NAME), string(chain::NAME, &chain.name)];
    if let Some(hook) = chain.hook {
        attrs.push(string(chain::TYPE, hook.kind()));
        attrs.push(be32(chain::POLICY, data::ACCEPT));
        attrs.push(nest(
            chain::HOOK,
            &[
                be32(chain::HOOK_HOOKNUM, hook.number()),
                bytes(chain::HOOK_PRIORITY, &hook.priority().to_be_bytes()),
            ],
        ));
    }
    attrs.push(comment(chain::USERDATA, &chain.comment));
    step(format!("add chain {}", chain.name), msg::NEWCHAIN, NLM_F_CREATE, &attrs)
}

fn add_map(id: u32, size: usize) -> Step {
    let mut typeof_verdict = user_entry(udata::TYPEOF_EXPR, &udata::EXPR_VERDICT.to_ne_bytes());
    typeof_verdict.extend(user_entry(udata::TYPEOF_DATA, &[]));
    let user: Vec<u8> = [
        user_entry(udata::SET_KEY_BYTEORDER, &udata::HOST_ENDIAN.to_ne_bytes()),
        user_entry(udata::SET_DATA_BYTEORDER, &0u32.to_ne_bytes()),
        user_entry(udata::SET_DATA_TYPEOF, &typeof_verdict),
        user_entry(udata::SET_DATA_INTERVAL, &0u32.to_ne_bytes()),
    ]
    .concat();
    step(
        "add the map that balances".to_owned(),
        msg::NEWSET,
        NLM_F_CREATE,
        &[
            string(set::TABLE, TABLE_NAME),
            string(set::NAME, ANONYMOUS_MAP),
            be32(set::FLAGS, set::FLAG_ANONYMOUS | set::FLAG_CONSTANT | set::FLAG_MAP),
            be32(set::KEY_TYPE, udata::TYPE_INTEGER),
            be32(set::KEY_LEN, 4),
            be32(set::DATA_TYPE, data::TYPE_VERDICT),
            be32(set::DATA_LEN, 0),
            be32(set::ID, id),
            nest(set::DESC, &[be32(set::DESC_SIZE, u32::try_from(size).unwrap_or(u32::MAX))]),
            bytes(set::USERDATA, &user),
        ],
    )
}

fn add_elements(map_id: u32, targets: &[Target]) -> Vec<Step> {
    let elements: Vec<Attr> = (0u32..)
        .zip(targets)
        .map(|(index, target)| {
            nest(
                rule::LIST_ELEM,
                &[
                    nest(elem::KEY, &[bytes(data::VALUE, &index.to_ne_bytes())]),
                    expressions::goto_data(elem::DATA, &target.chain),
                    comment(elem::USERDATA, &target.comment),
                ],
            )
        })
        .collect();
    elements
        .chunks(ELEMENTS_PER_MESSAGE)
        .map(|chunk| {
            step(
                "add elements of the map that balances".to_owned(),
                msg::NEWSETELEM,
                NLM_F_CREATE,
                &[
                    string(elem::LIST_TABLE, TABLE_NAME),
                    string(elem::LIST_SET, ANONYMOUS_MAP),
                    be32(elem::LIST_SET_ID, map_id),
                    nest(elem::LIST_ELEMENTS, chunk),
                ],
            )
        })
        .collect()
}

/// Makes it, still empty. `id` is unique within the transaction.
fn add_set(set: &Set, id: u32) -> Step {
    let shape = SetShape::of(set);
    let mut text = set.comment.as_bytes().to_vec();
    text.push(0);
    step(
        format!("add set {}", set.name),
        msg::NEWSET,
        NLM_F_CREATE,
        &[
            string(set::TABLE, TABLE_NAME),
            string(set::NAME, &set.name),
            be32(set::FLAGS, shape.flags),
            be32(set::KEY_TYPE, shape.key_type),
            be32(set::KEY_LEN, shape.key_len),
            be32(set::ID, id),
            be64(set::TIMEOUT, shape.timeout),
            bytes(set::USERDATA, &user_entry(udata::SET_COMMENT, &text)),
        ],
    )
}

/// Removes it. No rule may refer to it any more.
fn delete_set(name: &str) -> Step {
    step(
        format!("delete set {name}"),
        msg::DELSET,
        0,
        &[string(set::TABLE, TABLE_NAME), string(set::NAME, name)],
    )
}

/// Puts these elements in place of whatever it holds, with their whole time ahead of them: before 6.12 an element that
/// is added again keeps the time that it had.
pub(super) fn fill_set<'a>(name: &str, elements: impl Iterator<Item = &'a Element>) -> Vec<Step> {
    let list = [string(elem::LIST_TABLE, TABLE_NAME), string(elem::LIST_SET, name)];
    let mut steps = vec![step(format!("empty set {name}"), msg::DELSETELEM, 0, &list)];
    let elements: Vec<Attr> = elements.map(set_element).collect();
    steps.extend(elements.chunks(ELEMENTS_PER_MESSAGE).map(|chunk| {
        let mut attrs = list.to_vec();
        attrs.push(nest(elem::LIST_ELEMENTS, chunk));
        step(format!("add elements of set {name}"), msg::NEWSETELEM, NLM_F_CREATE, &attrs)
    }));
    steps
}

fn set_element(element: &Element) -> Attr {
    nest(
        rule::LIST_ELEM,
        &[
            nest(elem::KEY, &[bytes(data::VALUE, &set_key(element.address))]),
            comment(elem::USERDATA, &element.comment),
        ],
    )
}

/// Address and port as the rules' registers hold them.
fn set_key(address: SocketAddr) -> Vec<u8> {
    let mut key = octets(address.ip());
    key.extend(address.port().to_be_bytes());
    key.resize(key.len().next_multiple_of(WORD), 0);
    key
}

fn add_rule(chain: &Chain, rule: &Rule, map_id: u32) -> Step {
    let mut expressions: Vec<Attr> = rule.matches.iter().flat_map(|m| expressions::matching(*m)).collect();
    expressions.extend(rule.counter.as_deref().map(expressions::counter));
    expressions.extend(expressions::acting(&rule.action, map_id));
    let mut attrs = vec![
        string(rule::TABLE, TABLE_NAME),
        string(rule::CHAIN, &chain.name),
        nest(rule::EXPRESSIONS, &expressions),
    ];
    attrs.extend(rule.comment.as_deref().map(|text| comment(rule::USERDATA, text)));
    step(
        format!("add rule in chain {}: {rule}", chain.name),
        msg::NEWRULE,
        NLM_F_CREATE | NLM_F_APPEND,
        &attrs,
    )
}

/// One entry of nft's userdata. `value` is at most 255 bytes long, which [`super::table::COMMENT_MAX`] ensures.
fn user_entry(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap_or(u8::MAX);
    let mut entry = vec![kind, len];
    entry.extend_from_slice(&value[..usize::from(len)]);
    entry
}

/// Userdata that holds a comment.
fn comment(kind: u16, text: &str) -> Attr {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    bytes(kind, &user_entry(udata::COMMENT, &value))
}

/// A request to dump all objects of one kind, of our table where the kernel can filter.
pub(super) fn dump_request(kind: u16, table_attribute: Option<u16>, sequence: u32) -> Vec<u8> {
    let attrs: Vec<Attr> = table_attribute.map(|a| string(a, TABLE_NAME)).into_iter().collect();
    request(kind, NLM_F_DUMP, sequence, &attrs)
}

/// A request to dump all objects of one kind, of every table of every family.
pub(super) fn dump_all_request(kind: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, (SUBSYSTEM << 8) | kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, FAMILY_ANY, 0, &[]);
    bytes
}

/// A request to dump the elements of one set of our table.
pub(super) fn elements_request(set: &str, sequence: u32) -> Vec<u8> {
    let attrs = [string(elem::LIST_TABLE, TABLE_NAME), string(elem::LIST_SET, set)];
    request(msg::GETSETELEM, NLM_F_DUMP, sequence, &attrs)
}

/// A request for the generation of the ruleset: the number of transactions in this namespace so far.
pub(super) fn generation_request(sequence: u32) -> Vec<u8> {
    request(msg::GETGEN, 0, sequence, &[])
}

fn request(kind: u16, flags: u16, sequence: u32, attrs: &[Attr]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = (SUBSYSTEM << 8) | kind;
    push(&mut bytes, kind, NLM_F_REQUEST | flags, sequence, FAMILY_INET, 0, &emit(attrs));
    bytes
}

#[cfg(test)]
pub(super) mod tests;
