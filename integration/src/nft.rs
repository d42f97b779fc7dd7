//! nftables as an operator uses it: the `nft` program inside a namespace.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;
use crate::netns::Namespace;

impl Namespace {
    /// What `nft -j list WHAT` says, for instance `ruleset` or `table inet apivip`.
    pub fn nft_json(&self, what: &str) -> Result<Value> {
        let mut command = self.command("nft");
        command.args(["-j", "list"]).args(what.split(' '));
        serde_json::from_str(&command::run(command, "")?).with_context(|| format!("parse nft's {what}"))
    }

    /// What `nft list WHAT` says, for people.
    pub fn nft_text(&self, what: &str) -> Result<String> {
        let mut command = self.command("nft");
        command.arg("list").args(what.split(' '));
        command::run(command, "")
    }

    /// Loads a script with `nft -f`.
    pub fn nft_load(&self, script: &str) -> Result<()> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        command::run(command, script).map(drop)
    }
}
