//! What files of this node say of the virtual IP and of whom its system trusts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::audit::redirect::Listener;

/// Where distributions keep the CAs that their programs trust.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
/// `TCP_LISTEN` in the tables of sockets.
const LISTEN: &str = "0A";

/// The subjects of the cluster's CA, and those of them that this host's system trusts as well; `None` if that has no list.
pub(super) fn trusted(roots: &[Vec<u8>]) -> (Vec<String>, Option<Vec<String>>) {
    let system = SYSTEM.iter().find_map(|path| fs::read(path).ok());
    let system: Option<BTreeSet<Vec<u8>>> =
        system.map(|pem| CertificateDer::pem_slice_iter(&pem).flatten().map(|der| der.to_vec()).collect());
    let public = system
        .map(|system| roots.iter().filter(|der| system.contains(*der)).map(|der| subject(der)).collect());
    (roots.iter().map(|der| subject(der)).collect(), public)
}

fn subject(der: &[u8]) -> String {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => {
            certificate.subject().to_string().chars().filter(|c| !c.is_control()).take(200).collect()
        }
        Err(_) => "a certificate that does not parse".to_owned(),
    }
}

/// Whether processes may bind addresses that are not the node's.
pub(super) fn nonlocal() -> Vec<(&'static str, Option<bool>)> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim() != "0");
    vec![
        ("net.ipv4.ip_nonlocal_bind", read("/proc/sys/net/ipv4/ip_nonlocal_bind")),
        ("net.ipv6.ip_nonlocal_bind", read("/proc/sys/net/ipv6/ip_nonlocal_bind")),
    ]
}

/// The effective value of each interface: of `all` and its own the higher (`ip-sysctl`).
pub(super) fn rp_filter() -> Option<Vec<(String, i64)>> {
    const INTERFACES: &str = "/proc/sys/net/ipv4/conf";
    let value = |name: &str| -> Option<i64> {
        fs::read_to_string(format!("{INTERFACES}/{name}/rp_filter")).ok()?.trim().parse().ok()
    };
    let all = value("all")?;
    let names = fs::read_dir(INTERFACES).ok()?.flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<(String, i64)> = names
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"))
        .filter_map(|name| Some((name.clone(), value(&name)?.max(all))))
        .collect();
    found.sort();
    Some(found)
}

/// Who listens on one of `vips`, in this network namespace. Processes are looked up in `proc`.
///
/// # Errors
/// One line: the kernel's tables of sockets cannot be read.
pub(super) fn listeners(vips: &BTreeSet<SocketAddr>, proc: &Path) -> Result<Vec<Listener>, String> {
    let mut found = Vec::new();
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match fs::read_to_string(path) {
            Ok(text) => found.extend(text.lines().skip(1).filter_map(listening)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{path}: {error}")),
        }
    }
    let found = found.into_iter().filter(|(address, _)| vips.contains(address));
    let listener = |(address, inode)| {
        let pid = owner(proc, inode);
        Listener { address, pid, inner: pid.and_then(|pid| inner(proc, pid)) }
    };
    Ok(found.map(listener).collect())
}

/// A line of `/proc/net/tcp`: the address as the hexadecimal numbers that its words are to this machine.
fn listening(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    if !matches!(address.len(), 8 | 32) {
        return None;
    }
    let words: Option<Vec<[u8; 4]>> = address
        .as_bytes()
        .chunks(8)
        .map(|word| Some(u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes()))
        .collect();
    let bytes = words?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(ip.to_canonical(), port), fields.get(9)?.parse().ok()?))
}

/// A process's number in its own pid namespace: the last of `NSpid`.
fn inner(proc: &Path, pid: u64) -> Option<u64> {
    let status = fs::read_to_string(proc.join(pid.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

/// The process that holds a socket.
fn owner(proc: &Path, inode: u64) -> Option<u64> {
    let socket = format!("socket:[{inode}]");
    fs::read_dir(proc).ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().ok()?;
        let mut files = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let holds =
            files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy() == socket));
        holds.then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernels_table_are_read() {
        let line = |address: &str, state: &str| {
            format!(
                "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 x"
            )
        };
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let four = format!("{}:01BB", word([10, 96, 0, 1]));
        assert_eq!(listening(&line(&four, "0A")), Some(("10.96.0.1:443".parse().unwrap(), 4711)));
        assert_eq!(listening(&line(&four, "01")), None);
        let mapped = format!(
            "{}{}{}{}:01BB",
            word([0; 4]),
            word([0; 4]),
            word([0, 0, 255, 255]),
            word([10, 96, 0, 1])
        );
        assert_eq!(listening(&line(&mapped, "0A")).unwrap().0, "10.96.0.1:443".parse().unwrap());
        for odd in ["", "0: x", "0: zz:01BB 0 0A 0 0 0 0 0 1", "0: 0102:01BB 0 0A 0 0 0 0 0 1"] {
            assert_eq!(listening(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = listeners(&BTreeSet::from([address]), Path::new("/proc")).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].address, found[0].pid), (address, Some(u64::from(std::process::id()))));
        assert!(found[0].inner.is_some());
    }
}
