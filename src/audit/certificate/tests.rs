use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

use super::*;

/// 2026-01-01.
const NOW: i64 = 1_767_225_600;

fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(years: (i32, i32)) -> CertificateParams {
    let names = ["Kubernetes.default.svc", "*.pods.example", "10.96.0.1", "2001:db8::1"];
    let mut params = CertificateParams::new(names.map(str::to_owned)).unwrap();
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    params
}

#[test]
fn names_dates_and_issuer_are_read() {
    let root = ca("cluster");
    for years in [(2025, 2027), (2020, 2021), (2040, 2041)] {
        let own = params(years).signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
        let shown = Shown::read(&[own.der().to_vec()], &[root.der().to_vec()], NOW).unwrap();
        assert_eq!(shown.trusted, Ok(()), "its dates are judged apart");
        assert_eq!(shown.begin < NOW && shown.end > NOW, years.0 == 2025);
        assert!(!shown.self_signed && shown.issuer.contains("cluster"), "{shown:?}");
        for (name, expected) in [
            ("kubernetes.default.svc", true),
            ("KUBERNETES.default.svc", true),
            ("a.pods.example", true),
            ("a.b.pods.example", false),
            ("pods.example", false),
            ("10.96.0.1", true),
            ("2001:db8::1", true),
            ("10.96.0.2", false),
        ] {
            assert_eq!(shown.is_for(name), expected, "{name}");
        }
    }
}

#[test]
fn another_ca_is_not_trusted() {
    let (root, other) = (ca("cluster"), ca("cluster"));
    let key = KeyPair::generate().unwrap();
    let foreign = params((2025, 2027)).signed_by(&key, &other).unwrap().der().to_vec();
    let own = params((2025, 2027)).self_signed(&key).unwrap().der().to_vec();
    let roots = [root.der().to_vec()];
    assert_eq!(
        Shown::read(&[foreign], &roots, NOW).unwrap().trusted,
        Err("the cluster's CA did not sign it".to_owned())
    );
    let own = Shown::read(&[own], &roots, NOW).unwrap();
    assert!(own.self_signed && own.trusted.is_err());
    assert!(Shown::read(&[b"x".to_vec()], &roots, NOW).is_err() && Shown::read(&[], &roots, NOW).is_err());
}

#[test]
fn what_a_server_writes_stays_on_one_line() {
    let mut params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, format!("a\n\x1b[31m{}", "b".repeat(500)));
    let own = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let shown = Shown::read(&[own.der().to_vec()], &[], NOW).unwrap();
    assert!(!shown.subject.contains(['\n', '\x1b']) && shown.subject.len() <= 200);
    assert_eq!(shown.trusted, Err("no CA is known".to_owned()));
}
