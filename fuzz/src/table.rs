//! The promises of the table: names and comments that nft takes, and a transaction that can be read back.

use apivip::model::desired::DesiredState;
use apivip::nftables::decode::{self, ObservedTable};
use apivip::nftables::table::{COMMENT_MAX, Ownership, TABLE_NAME, Table};
use apivip::nftables::{build, encode, script};

/// Builds the table of `desired`, as text and as messages, and checks both.
pub fn check(desired: &DesiredState) {
    let table = build::table(desired);
    check_words(&table);
    let text = script(&table);
    assert!(text.starts_with(&format!("table inet {TABLE_NAME}\n")), "the script begins with something else");
    assert_eq!(text.matches('{').count(), text.matches('}').count(), "unbalanced braces in\n{text}");
    let observed = check_transaction(&table, &ObservedTable::default());
    assert!(observed.exists && observed.has_base_chains_of(&table), "the base chains cannot be read back");
    check_transaction(&table, &observed);
}

/// Builds the transaction that turns `observed` into `table`, reads it as if the kernel had sent it, and returns what
/// it would make of an empty kernel.
pub fn check_transaction(table: &Table, observed: &ObservedTable) -> ObservedTable {
    let steps = encode::replace(table, observed, Ownership::Owned);
    let batch = encode::batch(&steps, u32::MAX - 2, Some(1));
    let replies = decode::parse(&batch.bytes).expect("our own messages are well-formed");
    assert_eq!(replies.len(), steps.len() + 2, "a message more or less than steps, begin and end");
    let mut made = ObservedTable::default();
    replies.into_iter().for_each(|reply| made.add(reply.content));
    made
}

fn check_words(table: &Table) {
    for counter in &table.counters {
        check_name(&counter.name);
        check_comment(&counter.comment);
    }
    for chain in &table.chains {
        check_name(&chain.name);
        check_comment(&chain.comment);
        chain.rules.iter().filter_map(|rule| rule.comment.as_deref()).for_each(check_comment);
    }
    let mut names: Vec<&str> = table.chains.iter().map(|chain| chain.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.is_sorted_by(|a, b| a < b), "two chains of one name among {names:?}");
}

fn check_name(name: &str) {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    assert!(
        !name.is_empty() && name.len() <= 128 && name.chars().all(fine),
        "nft does not take the name {name:?}"
    );
}

fn check_comment(comment: &str) {
    let fine =
        comment.len() <= COMMENT_MAX && !comment.contains(['"', '\\']) && !comment.contains(char::is_control);
    assert!(fine, "nft does not take the comment {comment:?}");
}
