use super::harness::*;
use crate::proxy::*;

fn options(max_connections: usize, max_per_client: usize) -> ForwarderOptions {
    ForwarderOptions {
        max_connections: Some(max_connections),
        max_per_client: Some(max_per_client),
        ..Default::default()
    }
}

#[tokio::test]
async fn client_beyond_its_limit_is_reset() {
    let mut rig = Rig::with(options(4, 2), Vec::new()).await;
    rig.route_to(&[echo().await], &[]);
    let (mut one, mut two) = (rig.connect().await, rig.connect().await);
    assert!(echoes(&mut one).await && echoes(&mut two).await);
    assert!(rig.resets().await);
    assert_eq!(rig.stats.resets(ResetCause::ClientLimit), 1);
    assert!(echoes(&mut connect_from("127.0.0.2", rig.address).await).await);
    drop(one);
    rig.until(|stats| stats.open(Origin::Listen) == 1).await;
    assert!(echoes(&mut rig.connect().await).await && echoes(&mut two).await);
}

#[tokio::test]
async fn clients_beyond_the_total_limit_wait() {
    let mut rig = Rig::with(options(2, 2), Vec::new()).await;
    rig.route_to(&[echo().await], &[]);
    let (mut one, mut two) = (rig.connect().await, rig.connect().await);
    assert!(echoes(&mut one).await && echoes(&mut two).await);
    let mut waiting = connect_from("127.0.0.2", rig.address).await;
    rig.until(|stats| stats.accept_paused()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((rig.stats.open(Origin::Listen), rig.stats.accept_pauses()), (2, 1));
    drop(one);
    assert!(echoes(&mut waiting).await && echoes(&mut two).await);
    drop((two, waiting));
    rig.until(|stats| stats.open(Origin::Listen) == 0 && !stats.accept_paused()).await;
}
