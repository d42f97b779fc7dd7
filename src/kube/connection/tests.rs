use super::*;
use crate::kube::resource::RequestInfo;
use crate::kube::tests::log::Log;

fn logged(steps: impl FnOnce(&mut Reporter)) -> (Vec<String>, Connection) {
    let log = Log::default();
    let (sender, receiver) = watch::channel(Connection::default());
    tracing::subscriber::with_default(log.subscriber(), || steps(&mut Reporter::new(sender)));
    let text = log.text();
    let connection = receiver.borrow().clone();
    (text.lines().map(|line| line.trim().to_owned()).collect(), connection)
}

fn server(last: u8) -> Option<SocketAddr> {
    Some(SocketAddr::from(([192, 0, 2, last], 6443)))
}

fn status(code: u16) -> ApiError {
    let request = RequestInfo { verb: "list", resource: Resource::Service, namespace: "default".into() };
    ApiError::Status { request, code, message: "no".into() }
}

fn sync(reporter: &mut Reporter, address: Option<SocketAddr>) {
    reporter.watching(Resource::Service, address);
    reporter.watching(Resource::EndpointSlices, address);
}

#[test]
fn failure_is_logged_when_it_starts_changes_and_ends() {
    let (lines, connection) = logged(|reporter| {
        sync(reporter, server(11));
        for _ in 0..3 {
            reporter.session_failed(&status(500), server(11));
            reporter.session_failed(&status(500), server(12));
        }
        reporter.session_failed(&status(503), server(11));
        sync(reporter, server(12));
        reporter.session_failed(&status(500), server(11));
    });
    let failure = |code: u16, last: u8| {
        format!(
            "WARN Failed to read Kubernetes API event=api_read_failed address=192.0.2.{last}:6443 \
             error=list services in namespace default: the server answered {code}: no"
        )
    };
    assert_eq!(
        lines,
        [
            "INFO Synced with Kubernetes API event=api_synced address=192.0.2.11:6443",
            &failure(500, 11),
            &failure(500, 12),
            &failure(503, 11),
            "INFO Synced with Kubernetes API again event=api_recovered address=192.0.2.12:6443 outage_seconds=0 \
             failures=7",
            &failure(500, 11),
        ]
    );
    assert_eq!((connection.state, connection.reconnects), (ConnectionState::Degraded, 8));
}

#[test]
fn distinct_failures_are_logged_up_to_the_limit() {
    let (lines, _) = logged(|reporter| {
        for code in 0..1000 {
            reporter.session_failed(&status(code), None);
        }
    });
    assert_eq!(lines.len(), LOGGED_FAILURES);
}

#[test]
fn state_is_synced_only_with_both_watches() {
    let (_, connection) = logged(|reporter| {
        reporter.watching(Resource::Service, server(11));
        assert_eq!(reporter.sender.borrow().state, ConnectionState::Connecting);
        assert_eq!(reporter.session_failed(&status(500), server(11)), None);
        assert_eq!(
            reporter.sender.borrow().state,
            ConnectionState::Connecting,
            "never synced, nothing to degrade"
        );
        sync(reporter, server(11));
        reporter.count(ReflectorCounter::Event);
        reporter.session_moved();
        sync(reporter, server(12));
    });
    assert_eq!((connection.state, connection.address), (ConnectionState::Synced, server(12)));
    assert_eq!((connection.reconnects, connection.events, connection.last_error.clone()), (2, 1, None));
    let json = serde_json::to_value(&connection).unwrap();
    assert_eq!(json["state"], "synced");
    assert!(json["since"].is_u64());
}
