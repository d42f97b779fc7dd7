//! Endpoints as the API sends them -> the table. Input: lines of JSON, each an EndpointSlice or a watch event
//! of one; the whole of it is also read as the body of a list.

#![no_main]

use std::collections::BTreeMap;

use apivip::kube::decode::{self, Change, LineBuffer, LineTooLong, WatchEvent};
use apivip::kube::resource::Resource;
use apivip::model::objects::{ClusterView, EndpointSlice, Service, ServicePort};
use apivip_fuzz::{check, key};
use libfuzzer_sys::fuzz_target;

/// Lines longer than this are refused, as the daemon refuses longer ones.
const LIMIT: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let mut found = Found::default();
    let mut lines = LineBuffer::new(LIMIT);
    // The network cuts where it likes.
    let cut = usize::from(data.first().copied().unwrap_or(1)).max(1);
    for chunk in data.chunks(cut) {
        let cut_off = lines.push(chunk, |line| {
            assert!(line.len() <= LIMIT && !line.contains(&b'\n'), "a line that is none");
            found.line(line);
            Ok::<(), LineTooLong>(())
        });
        assert!(lines.unfinished() <= LIMIT, "more is held than the limit allows");
        if cut_off.is_err() {
            break;
        }
    }
    for resource in [Resource::Service, Resource::EndpointSlices] {
        if let Ok(listed) = decode::list(resource, &key(), data) {
            found.change(listed.change);
        }
    }
    found.check();
});

/// Everything that could be read.
#[derive(Default)]
struct Found {
    slices: BTreeMap<String, EndpointSlice>,
}

impl Found {
    fn line(&mut self, line: &[u8]) {
        for resource in [Resource::Service, Resource::EndpointSlices] {
            if let Ok(WatchEvent::Changed(Some(change), _)) = decode::event(resource, &key(), line) {
                self.change(change);
            }
        }
        if let Ok(slice) = serde_json::from_slice::<EndpointSlice>(line) {
            self.slices.insert(slice.metadata.name.clone(), slice);
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Service(_) => {}
            Change::Slices(slices) => self.slices = slices,
            Change::Slice(slice) => drop(self.slices.insert(slice.metadata.name.clone(), slice)),
            Change::SliceDeleted(name) => drop(self.slices.remove(&name)),
        }
    }

    fn check(self) {
        if !self.slices.is_empty() {
            check(&ClusterView { service: Some(service()), slices: self.slices });
        }
    }
}

/// Dual-stack, with the usual port and one without a name.
fn service() -> Service {
    let mut service = Service::default();
    service.spec.cluster_ips = vec!["10.96.0.1".to_owned(), "fd00:10:96::1".to_owned()];
    service.spec.ports = [("https", 443), ("", 8443)]
        .map(|(name, port)| ServicePort { name: name.to_owned(), port, protocol: "TCP".to_owned() })
        .to_vec();
    service
}
