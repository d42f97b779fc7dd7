//! What the demonstration prints: numbered sentences, and below each what a terminal would show.

use std::sync::atomic::{AtomicU32, Ordering};

static ACT: AtomicU32 = AtomicU32::new(1);

/// Opens the next act with one sentence.
pub(crate) fn act(sentence: &str) {
    println!("\n{}. {sentence}", ACT.fetch_add(1, Ordering::Relaxed));
}

/// Says one more sentence.
pub(crate) fn say(sentence: &str) {
    println!("   {sentence}");
}

/// A command as an operator types it.
pub(crate) fn typed(command: &str) {
    lines(&format!("# {command}"));
}

/// Output of a program.
pub(crate) fn lines(text: &str) {
    for line in text.trim_end().lines() {
        println!("{}", format!("     {}", line.replace('\t', "    ")).trim_end());
    }
}
