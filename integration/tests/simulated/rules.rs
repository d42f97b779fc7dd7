//! The reference rulesets in `rules/`, three ways: what `apivip render` prints, what nft makes of the reference, and
//! what the daemon's netlink messages make of the same objects.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::command::{program, run};
use integration::netns::Namespace;
use nftables::schema::NfObject;
use serde_json::Value;

const TABLE: &str = "table inet apivip";

/// One file of `rules/`: its first line is the command that makes the rest.
struct Reference {
    path: PathBuf,
    arguments: Vec<String>,
    text: String,
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules")
}

fn references() -> Result<Vec<Reference>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(rules())? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "nft") {
            continue;
        }
        let file = std::fs::read_to_string(&path)?;
        let (head, text) = file.split_once('\n').context("an empty reference")?;
        let command = head.strip_prefix("# apivip render ").with_context(|| path.display().to_string())?;
        all.push(Reference {
            arguments: command.split(' ').map(str::to_owned).collect(),
            text: text.to_owned(),
            path,
        });
    }
    ensure!(all.len() >= 11, "only {} references in {}", all.len(), rules().display());
    Ok(all)
}

/// What nft lists, without what differs between any two loads: handles, counter values, and how long an element of a set
/// has still to live.
fn listed(namespace: &Namespace) -> Result<(String, Vec<Value>)> {
    let json = namespace.nft_json(TABLE)?;
    let objects = json["nftables"].as_array().context("no list of objects")?;
    let objects = objects.iter().filter(|o| o.get("metainfo").is_none()).cloned().map(|mut object| {
        let elements = object.pointer_mut("/set/elem").and_then(Value::as_array_mut);
        for element in elements.into_iter().flatten().filter_map(|e| e["elem"].as_object_mut()) {
            element.remove("expires");
        }
        for value in object.as_object_mut().into_iter().flat_map(|o| o.values_mut()) {
            let Some(fields) = value.as_object_mut() else { continue };
            for field in ["handle", "flags", "packets", "bytes"] {
                fields.remove(field);
            }
        }
        object
    });
    Ok((without_expiry(&namespace.nft_text(TABLE)?), objects.collect()))
}

fn without_expiry(listed: &str) -> String {
    let mut parts = listed.split(" expires ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.find(' ').map_or("", |end| &part[end..]));
    }
    text
}

/// Reads every object with the crate that operators' programs use. It has no word for `tcp flags ! syn,rst`, which is
/// how nft lists that neither flag is set.
fn read_with_the_crate(objects: &[Value]) -> Result<()> {
    let neither = |object: &&Value| {
        let expressions = object["rule"]["expr"].as_array();
        expressions.is_some_and(|all| all.iter().any(|expression| expression["match"]["op"] == "!"))
    };
    for object in objects.iter().filter(|object| !neither(object)) {
        serde_json::from_value::<NfObject>(object.clone())
            .with_context(|| format!("the crate nftables cannot read {object}"))?;
    }
    Ok(())
}

#[test]
fn render_prints_the_references() -> Result<()> {
    for reference in references()? {
        let mut render = std::process::Command::new(program("apivip")?);
        render.arg("render").args(&reference.arguments).current_dir(rules());
        let text = run(render, "")?;
        ensure!(
            text == reference.text,
            "{} is not what its first line prints; it prints:\n{text}",
            reference.path.display()
        );
    }
    Ok(())
}

#[test]
fn references_and_netlink_messages_make_the_same_table() -> Result<()> {
    for reference in references()? {
        let name = reference.path.display();
        let by_nft = Namespace::create("nft")?;
        by_nft.nft_load(&reference.text)?;
        let by_netlink = Namespace::create("netlink")?;
        let mut apply = by_netlink.command(program("netlink-apply")?);
        apply.args(&reference.arguments).current_dir(rules());
        run(apply, "")?;
        // What nft lists of it, elements that expire included, is what nft loads.
        Namespace::create("again")?.nft_load(&by_netlink.nft_text(TABLE)?)?;
        let (expected, actual) = (listed(&by_nft)?, listed(&by_netlink)?);
        ensure!(
            expected.0 == actual.0,
            "{name}: nft lists\n{}\nbut the daemon makes\n{}",
            expected.0,
            actual.0
        );
        ensure!(
            expected.1 == actual.1,
            "{name}: nft -j lists\n{:#?}\nbut the daemon makes\n{:#?}",
            expected.1,
            actual.1
        );
        let shown = reference.text.split_once("delete table inet apivip\n").context("no delete")?.1;
        ensure!(expected.0 == shown, "{name}: nft lists\n{}\nand not the reference", expected.0);
        read_with_the_crate(&expected.1)?;
    }
    Ok(())
}

#[test]
fn replacing_any_reference_by_any_other_leaves_nothing_behind() -> Result<()> {
    let references = references()?;
    let namespace = Namespace::create("replace")?;
    let fresh = Namespace::create("fresh")?;
    for from in &references {
        for to in &references {
            fresh.nft_load(&to.text)?;
            for reference in [from, to] {
                let mut apply = namespace.command(program("netlink-apply")?);
                apply.args(&reference.arguments).current_dir(rules());
                run(apply, "")?;
            }
            let (mut expected, mut actual) = (listed(&fresh)?.1, listed(&namespace)?.1);
            // Counters and sets that stay keep their place before the new ones.
            for objects in [&mut expected, &mut actual] {
                objects.sort_by_key(|o| o.get("counter").or_else(|| o.get("set")).map(ToString::to_string));
            }
            ensure!(
                expected == actual,
                "{} replaced by {}: {actual:#?} instead of {expected:#?}",
                from.path.display(),
                to.path.display()
            );
        }
    }
    Ok(())
}

#[test]
fn whatever_a_neighbour_left_in_the_table_goes_with_a_replacement() -> Result<()> {
    let references = references()?;
    let reference = &references[0];
    let fresh = Namespace::create("fresh")?;
    fresh.nft_load(&reference.text)?;
    let leftovers = [
        "add set inet apivip strange { type ipv4_addr; elements = { 192.0.2.99 }; }",
        "add chain inet apivip strange { type filter hook input priority 0; policy drop; }",
        "add quota inet apivip strange over 25 mbytes",
        "add map inet apivip strange { type ipv4_addr : verdict; }",
        "flush chain inet apivip nat-output",
        "delete chain inet apivip nat-output",
        "add counter inet apivip strange",
        "insert rule inet apivip nat-output ip daddr 192.0.2.99 drop",
        "flush table inet apivip",
        "delete table inet apivip",
    ];
    for leftover in leftovers {
        let namespace = Namespace::create("dirty")?;
        namespace.nft_load(&reference.text)?;
        namespace.nft_load(leftover)?;
        let mut apply = namespace.command(program("netlink-apply")?);
        apply.args(&reference.arguments).current_dir(rules());
        run(apply, "")?;
        let (expected, actual) = (listed(&fresh)?, listed(&namespace)?);
        ensure!(expected == actual, "after {leftover}: {}", actual.0);
    }
    Ok(())
}
