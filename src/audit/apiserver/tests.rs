mod tls {
    use std::collections::BTreeSet;

    use super::super::*;
    use crate::check::report::Verdict::{self, Fail, Pass, Unknown};

    const NOW: i64 = 1_000_000_000;
    const DAY: i64 = 86_400;

    fn shown() -> ServedCertificate {
        ServedCertificate {
            subject: "CN=kube-apiserver".to_owned(),
            issuer: "CN=kubernetes".to_owned(),
            self_signed: false,
            names: BTreeSet::from(["kubernetes.default.svc".to_owned()]),
            addresses: BTreeSet::from(["10.96.0.1".parse().unwrap()]),
            begin: NOW - 100 * DAY,
            end: NOW + 265 * DAY,
            trusted: Ok(()),
        }
    }

    fn tls_probe(shown: Result<ServedCertificate, String>) -> TlsProbe {
        let address = "192.0.2.11:6443".parse().unwrap();
        TlsProbe { address, shown, old: Ok(Some(Reply::Alert(70))), broken: Ok(None), fixed: Ok(None) }
    }

    fn verdicts(tls_probe: &TlsProbe) -> Vec<(Verdict, Severity)> {
        let names = ["kubernetes.default.svc".to_owned(), "10.96.0.1".to_owned()];
        tls_findings(tls_probe, &names, NOW)
            .iter()
            .map(|finding| (finding.verdict, finding.severity.unwrap()))
            .collect()
    }

    fn chosen(version: u16, suite: u16) -> HelloResult {
        Ok(Some(Reply::Chosen { version, suite }))
    }

    #[test]
    fn hardened_apiserver_passes() {
        assert!(verdicts(&tls_probe(Ok(shown()))).iter().all(|(verdict, _)| *verdict == Pass));
    }

    #[test]
    fn kubelet_that_does_not_answer_is_unknown() {
        let silent = || Err("no answer within 3 s".to_owned());
        let tls_probe = TlsProbe {
            old: silent(),
            broken: silent(),
            fixed: silent(),
            ..tls_probe(Err("refused".to_owned()))
        };
        assert_eq!(
            verdicts(&tls_probe).iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(),
            [Unknown; 5]
        );
    }

    #[test]
    fn bad_certificate_fails() {
        let at = |shown: ServedCertificate, place: usize| verdicts(&tls_probe(Ok(shown)))[place];
        let untrusted_certificate = || Err("the cluster CA did not sign it".to_owned());
        assert_eq!(
            at(ServedCertificate { trusted: untrusted_certificate(), ..shown() }, 0),
            (Fail, Severity::High)
        );
        assert_eq!(
            at(ServedCertificate { trusted: untrusted_certificate(), self_signed: true, ..shown() }, 0),
            (Fail, Severity::High)
        );
        assert_eq!(
            at(ServedCertificate { trusted: Err("no CA is known".to_owned()), ..shown() }, 0).0,
            Unknown
        );
        assert_eq!(
            at(ServedCertificate { addresses: BTreeSet::new(), ..shown() }, 1),
            (Fail, Severity::Medium)
        );
        assert_eq!(at(ServedCertificate { names: BTreeSet::new(), ..shown() }, 1), (Fail, Severity::Medium));
        assert_eq!(at(ServedCertificate { end: NOW - 1, ..shown() }, 2), (Fail, Severity::High));
        assert_eq!(at(ServedCertificate { begin: NOW + 1, ..shown() }, 2), (Fail, Severity::High));
        assert_eq!(at(ServedCertificate { end: NOW + DAY, ..shown() }, 2), (Fail, Severity::Low));
    }

    #[test]
    fn weak_tls_fails() {
        let good = || tls_probe(Ok(shown()));
        assert_eq!(verdicts(&TlsProbe { old: chosen(0x0301, 5), ..good() })[3], (Fail, Severity::High));
        assert_eq!(verdicts(&TlsProbe { old: chosen(0x0303, 5), ..good() })[3].0, Pass);
        assert_eq!(verdicts(&TlsProbe { broken: chosen(0x0303, 10), ..good() })[4], (Fail, Severity::Medium));
        assert_eq!(verdicts(&TlsProbe { fixed: chosen(0x0303, 0x9c), ..good() })[4], (Fail, Severity::Low));
    }

    #[test]
    fn ca_bundle_has_its_verdicts() {
        let all = ["a", "b", "c"].map(|name| format!("CN={name}"));
        let of = |count: usize, public: Option<&[String]>| {
            let finding = trusted(&all[..count], public);
            (finding.verdict, finding.severity.unwrap())
        };
        assert_eq!(of(0, None).0, Unknown);
        assert_eq!((of(1, Some(&[])).0, of(2, None).0), (Pass, Pass));
        assert_eq!(of(3, None), (Fail, Severity::Low));
        assert_eq!(of(1, Some(&all[..1])), (Fail, Severity::High));
    }
}

mod identity {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::*;

    fn of(status: u16, user: &str) -> Identity {
        let message = format!("forbidden: User {user:?} cannot get path \"/apivip-audit\"");
        let body = serde_json::json!({"kind": "Status", "message": message}).to_string();
        Identity::of(&HttpResponse { status, headers: HeaderMap::new(), body: Bytes::from(body), cut: false })
    }

    #[test]
    fn identity_is_read_from_response() {
        assert_eq!(of(401, ""), Identity::Nobody);
        assert_eq!(of(403, "system:anonymous"), Identity::Anonymous);
        assert_eq!(of(403, "system:node:a"), Identity::User("system:node:a".to_owned()));
        assert_eq!((of(404, ""), of(200, "")), (Identity::Allowed, Identity::Allowed));
        assert_eq!(of(500, ""), Identity::Unclear(500));
        let odd =
            HttpResponse { status: 403, headers: HeaderMap::new(), body: Bytes::from("no"), cut: false };
        assert_eq!(Identity::of(&odd), Identity::Unclear(403));
    }
}

mod access {
    use super::super::*;
    use crate::audit::control_plane::ControlPlane;
    use crate::audit::flags::ApiserverFlags;
    use crate::audit::flags::Flags;
    use crate::check::report::Verdict::{self, Fail, Pass, Unknown};

    fn access_probe() -> AccessProbe {
        let closed = HttpError { reason: HttpErrorKind::Refused, text: "refused".to_owned() };
        AccessProbe {
            address: "192.0.2.11:6443".parse().unwrap(),
            open: open(&[]),
            untrusted_certificate: Ok(Identity::Nobody),
            damaged_token: Ok(Identity::Nobody),
            own_credentials: Some(Ok(Identity::User("system:node:a".to_owned()))),
            basic_auth: Ok(false),
            plain_ports: vec![(6443, Ok(PlainResponse::Other(400))), (8080, Err(closed))],
        }
    }

    /// These paths are served, and all others refused.
    fn open(served: &[&str]) -> Vec<(&'static str, Answered<u16>)> {
        paths()
            .map(|path| (path, Ok(if served.contains(&path) || path == "/version" { 200 } else { 403 })))
            .collect()
    }

    fn of(access_probe: &AccessProbe, id: &str) -> Verdict {
        access_findings(access_probe).iter().find(|finding| finding.id == id).unwrap().verdict
    }

    #[test]
    fn hardened_apiserver_passes() {
        let all = access_findings(&access_probe());
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|finding| finding.verdict == Pass), "{all:?}");
        let said = |id| all.iter().find(|finding| finding.id == id).unwrap().evidence.clone();
        assert_eq!(said("plain-http"), "6443 answers 400 and is not an API server, 8080 is closed");
        assert_eq!(said("anonymous-discovery"), "they can read /version, but no discovery");
    }

    #[test]
    fn kubelet_that_does_not_answer_is_unknown() {
        let no = || Err("no answer within 3 s".to_owned());
        let silent = AccessProbe {
            untrusted_certificate: no(),
            damaged_token: no(),
            own_credentials: Some(no()),
            basic_auth: Err("x".to_owned()),
            open: Vec::new(),
            ..access_probe()
        };
        for finding in access_findings(&silent).iter().filter(|finding| finding.id != "plain-http") {
            assert_eq!(finding.verdict, Unknown, "{finding:?}");
        }
        let unclear = || Ok(Identity::Unclear(500));
        let odd = AccessProbe {
            untrusted_certificate: unclear(),
            damaged_token: unclear(),
            own_credentials: Some(unclear()),
            ..access_probe()
        };
        for id in ["foreign-client-certificate", "damaged-token", "credentials"] {
            assert_eq!(of(&odd, id), Unknown, "{id}");
        }
        assert_eq!(of(&AccessProbe { own_credentials: None, ..access_probe() }, "credentials"), Unknown);
    }

    #[test]
    fn accepted_client_fails() {
        for who in [Identity::Allowed, Identity::User("apivip-audit".to_owned())] {
            assert_eq!(
                of(
                    &AccessProbe { untrusted_certificate: Ok(who.clone()), ..access_probe() },
                    "foreign-client-certificate"
                ),
                Fail
            );
            assert_eq!(
                of(&AccessProbe { damaged_token: Ok(who.clone()), ..access_probe() }, "damaged-token"),
                Fail
            );
        }
        assert_eq!(
            of(&AccessProbe { damaged_token: Ok(Identity::Anonymous), ..access_probe() }, "damaged-token"),
            Pass
        );
        assert_eq!(
            of(
                &AccessProbe { own_credentials: Some(Ok(Identity::Anonymous)), ..access_probe() },
                "credentials"
            ),
            Fail
        );
        assert_eq!(of(&AccessProbe { basic_auth: Ok(true), ..access_probe() }, "basic-auth"), Fail);
        let open = |path| AccessProbe { open: open(&[path]), ..access_probe() };
        assert_eq!(of(&open("/apis"), "anonymous-discovery"), Fail);
        assert_eq!(of(&open("/apis"), "anonymous-objects"), Pass);
        assert_eq!(of(&open(OBJECT_PATHS[4]), "anonymous-objects"), Fail);
        assert_eq!(
            of(
                &AccessProbe { plain_ports: vec![(8080, Ok(PlainResponse::Api))], ..access_probe() },
                "plain-http"
            ),
            Fail
        );
        let silent = Err(HttpError { reason: HttpErrorKind::Silent, text: String::new() });
        assert_eq!(
            of(&AccessProbe { plain_ports: vec![(8080, silent)], ..access_probe() }, "plain-http"),
            Unknown
        );
        let mut broken = access_probe();
        broken.open.retain(|(path, _)| *path != OBJECT_PATHS[1]);
        broken.open.push((OBJECT_PATHS[1], Ok(503)));
        assert_eq!(of(&broken, "anonymous-objects"), Unknown);
        broken.open.push((OBJECT_PATHS[2], Ok(200)));
        broken.open.retain(|(path, status)| *path != OBJECT_PATHS[2] || *status == Ok(200));
        assert_eq!(of(&broken, "anonymous-objects"), Fail, "what was seen counts");
    }

    #[test]
    fn token_auth_file_flag_fails() {
        let with = |line: &str| ControlPlane {
            apiservers: vec![ApiserverFlags::new("here".to_owned(), Flags::read(&[line]))],
            all_flags: true,
            ..ControlPlane::default()
        };
        assert_eq!(static_tokens(&with("--token-auth-file=/etc/tokens"), None).verdict, Fail);
        assert_eq!(static_tokens(&with("--secure-port=6443"), Some(false)).verdict, Pass);
        let some = ControlPlane { all_flags: false, ..with("--secure-port=6443") };
        assert_eq!(static_tokens(&some, Some(false)).verdict, Unknown);
        assert_eq!(static_tokens(&ControlPlane::default(), Some(false)).verdict, Unknown);
        assert_eq!(static_tokens(&ControlPlane::default(), Some(true)).verdict, Fail);
    }
}
