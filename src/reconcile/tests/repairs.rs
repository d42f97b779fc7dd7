//! What others change is made again, soon but not in a busy loop; and what goes on while a commit waits.

use super::*;
use crate::dataplane::Culprit;

fn firewalld() -> Culprit {
    Culprit { pid: 42, name: "firewalld".to_owned() }
}

/// Changes the rules and waits until they are as they were. Returns how long that took.
async fn disturb(rig: &mut Rig) -> Duration {
    let before = tokio::time::Instant::now();
    rig.kernel.disturb(firewalld());
    rig.reports.changed().await.unwrap();
    rig.reports.borrow_and_update();
    assert_eq!(rig.backends(), [backend(11)]);
    before.elapsed()
}

#[test]
fn change_by_another_program_is_repaired_and_logged_with_its_name() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        assert_eq!(rig.reports.borrow().repairs.total, 0);
        assert_eq!(disturb(&mut rig).await, Duration::ZERO);
        assert_eq!(rig.kernel.commits(), 2);
        let repairs = Arc::clone(&rig.reports.borrow().repairs);
        assert_eq!(repairs.total, 1);
        assert_eq!(repairs.latest[0].by.as_deref(), Some("firewalld (pid 42)"));
        assert_eq!(rig.flows.forgotten().len(), 2, "who dialled meanwhile would stay without rules");
        let text = rig.metrics_text();
        assert!(text.contains("apivip_drift_repairs_total{object=\"table\",found=\"event\"} 1\n"), "{text}");
        // A repair, however late, is no reaction to what the API said.
        assert!(text.contains("apivip_reaction_seconds_count 1\n"), "{text}");
    });
}

#[test]
fn repair_does_not_wait_for_the_node_lookup() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        let looks = rig.kernel.looks();
        disturb(&mut rig).await;
        disturb(&mut rig).await;
        assert_eq!(rig.kernel.looks(), looks);
        // What the API says anew concerns other addresses.
        rig.publish(2, ServiceStatus::Found, &[11, 12]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(rig.kernel.looks(), looks + 1);
    });
}

#[test]
fn repeated_changes_are_repaired_with_backoff_and_summarized() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        let mut waits = Vec::new();
        for _ in 0..20 {
            waits.push(disturb(&mut rig).await);
        }
        assert!(waits[..10].iter().all(Duration::is_zero), "{waits:?}");
        assert!(waits[12..].iter().all(|wait| *wait > Duration::from_millis(90)), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < Duration::from_millis(1700)), "{waits:?}");
        // While it waits, further changes are gathered.
        for _ in 0..5 {
            rig.kernel.disturb(firewalld());
        }
        rig.reports.changed().await.unwrap();
        let repairs = Arc::clone(&rig.reports.borrow().repairs);
        assert_eq!((repairs.total, repairs.latest[0].changes), (21, 5));
        assert_eq!(repairs.latest.len(), 8);
    });
}

#[test]
fn summaries_are_logged_in_time_and_delay_no_repair() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        for _ in 0..15 {
            disturb(&mut rig).await;
        }
        // Two sums, of which the second ends it.
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(disturb(&mut rig).await, Duration::ZERO);
        assert_eq!(rig.reports.borrow().repairs.total, 16);
    });
}

#[test]
fn counters_and_stop_are_handled_while_a_commit_is_blocked() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11, 12]).await;
        rig.kernel.set_connections(backend(11), 7);
        rig.publish(2, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_blocked(true);
        rig.views.send_replace(Some(view(3, ServiceStatus::Found, &[12])));
        tokio::task::yield_now().await;
        let before = tokio::time::Instant::now();
        let (query, answer) = oneshot::channel();
        rig.queries.send(query).await.unwrap();
        assert_eq!(answer.await.unwrap()[&backend(11)], 7);
        assert_eq!(before.elapsed(), Duration::ZERO);
        // The end of the test stops it.
    });
}
