//! Signals that leave the rest to the process that gets them. In: an apiserver's number. Out: a process that stands still, runs
//! on, or ends in its own time.

use anyhow::Result;

use super::RealControlPlane;
use crate::process::Signal;

impl RealControlPlane<'_> {
    /// Sends SIGTERM to apiserver `i` and does not wait for its end.
    pub fn terminate_apiserver(&mut self, i: u8) -> Result<()> {
        self.apiserver(i)?.signal(Signal::TERM)
    }

    /// Whether the process of apiserver `i` has ended.
    pub fn apiserver_has_ended(&mut self, i: u8) -> Result<bool> {
        self.apiserver(i)?.has_ended()
    }

    /// Stops apiserver `i` from running: its sockets stay open and nothing answers.
    pub fn pause_apiserver(&mut self, i: u8) -> Result<()> {
        self.apiserver(i)?.signal(Signal::STOP)
    }

    /// Lets a paused apiserver run on.
    pub fn resume_apiserver(&mut self, i: u8) -> Result<()> {
        self.apiserver(i)?.signal(Signal::CONT)
    }

    /// Stops etcd from running: its connections stay open and nothing answers.
    pub fn pause_etcd(&mut self) -> Result<()> {
        self.etcd.signal(Signal::STOP)
    }

    /// Lets it run on.
    pub fn resume_etcd(&mut self) -> Result<()> {
        self.etcd.signal(Signal::CONT)
    }
}
