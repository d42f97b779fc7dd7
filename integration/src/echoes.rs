//! Echo connections that a test opens one by one, and keeps through whatever happens.
//! In: where from and where to. Out: each of them still carries bytes in the end, or an error that names those that do
//! not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;

/// Longest that a connection may take to be made, and to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Connections that were open when they were kept.
#[derive(Debug, Default)]
pub struct Echoes(Vec<Echo>);

#[derive(Debug)]
struct Echo {
    name: String,
    stream: TcpStream,
}

impl Echoes {
    /// Opens one more, which has carried bytes when this returns. `title` says in an error which one it is.
    pub fn open(&mut self, title: &str, from: &Namespace, target: SocketAddr) -> Result<()> {
        let name = format!("{title}, from {} to {target}", from.name());
        let opened = from.within(|| connect(target)).with_context(|| name.clone())?;
        let mut echo = Echo { name, stream: opened };
        echo.exchange()?;
        self.0.push(echo);
        Ok(())
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Fails unless each of them carries bytes. They are closed afterwards.
    pub fn finish_clean(self) -> Result<()> {
        let count = self.0.len();
        let broken: Vec<String> = self
            .0
            .into_iter()
            .filter_map(|mut echo| echo.exchange().err().map(|error| format!("{error:#}")))
            .collect();
        ensure!(
            broken.is_empty(),
            "{} of {count} kept connections broke\n{}",
            broken.len(),
            broken.join("\n")
        );
        Ok(())
    }
}

impl Echo {
    fn exchange(&mut self) -> Result<()> {
        let sent = b"are you there?";
        let mut back = [0; 14];
        self.stream.write_all(sent).with_context(|| format!("send on {}", self.name))?;
        self.stream.read_exact(&mut back).with_context(|| format!("read the echo of {}", self.name))?;
        ensure!(&back == sent, "{} gave {back:?} back", self.name);
        Ok(())
    }
}

/// Tries to connect from a namespace, and says whether that came about.
pub fn connects(from: &Namespace, target: SocketAddr) -> Result<std::io::Result<()>> {
    from.within(|| Ok(TcpStream::connect_timeout(&target, LIMIT).map(drop)))
}

/// The server speaks first: a line, after which it is an echo.
fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, LIMIT).context("connect")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut greeting = String::new();
    // Nothing but the greeting is on its way yet, so the buffer swallows no more than that.
    let local = stream.local_addr()?;
    BufReader::new(&stream)
        .read_line(&mut greeting)
        .with_context(|| format!("read the greeting at {local}"))?;
    ensure!(greeting.ends_with('\n'), "the greeting is {greeting:?}");
    Ok(stream)
}
