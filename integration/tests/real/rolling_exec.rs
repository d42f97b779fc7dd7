//! `kubectl exec` and `kubectl logs -f` through the virtual IP, while real apiservers are restarted one after the other.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::control_plane::{ControlPlane, SERVICE_PORT};
use integration::kubeconfig;
use integration::lab::Lab;
use integration::process::Spawned;
use integration::real::node::Image;
use integration::real::node::arm::{Arm, Server};
use integration::real::node::cluster::{self, Cluster, condition};
use integration::real::node::image::on_this_machine;
use integration::real::{ADMIN_TOKEN, SHUTDOWN_DELAY, cached};

const IMAGE: &str = "apivip.test/talking:1";

/// It writes a line each second, for as long as a test may take.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talking, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: talking
    image: apivip.test/talking:1
    command: [sh, -e, -c, "i=0; while [ $i -lt 3600 ]; do echo $i; i=$((i + 1)); sleep 1; done"]
"#;

/// What is run in the Pod: five seconds, which an apiserver that stops has time for.
const COMMAND: &str = "for i in 1 2 3 4 5; do echo line $i; sleep 1; done";
const LINES: &str = "line 1\nline 2\nline 3\nline 4\nline 5\n";

/// How many of each at a time: by chance some lead to each apiserver.
const MANY: usize = 8;

/// Longest until a command of five seconds has ended.
const RUN: Duration = Duration::from_secs(60);

/// Longer than the delay and the last requests.
const ENDED: Duration = Duration::from_secs(100);

/// Until then every log that is followed goes on.
const FOLLOWED: Duration = Duration::from_secs(8);

struct Users<'lab> {
    lab: &'lab Lab,
    kubeconfig: std::path::PathBuf,
    begun: usize,
}

impl Users<'_> {
    fn start(&mut self, what: &str, words: &[&str]) -> Result<Spawned> {
        self.begun += 1;
        let mut kubectl: Command = self.lab.pod(1).command(cached("kubectl")?);
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(words);
        Spawned::start(&format!("{what}-{}", self.begun), kubectl, self.lab.dir())
    }

    fn commands(&mut self) -> Result<Vec<Spawned>> {
        (0..MANY).map(|_| self.start("exec", &["exec", "talking", "--", "sh", "-c", COMMAND])).collect()
    }

    fn logs(&mut self) -> Result<Vec<Spawned>> {
        (0..MANY).map(|_| self.start("logs", &["logs", "-f", "--tail=1", "talking"])).collect()
    }
}

/// Each has said all its lines, and ended well.
fn expect_whole(commands: Vec<Spawned>) -> Result<usize> {
    let count = commands.len();
    for mut command in commands {
        let status = command.wait(RUN)?;
        let said = command.stdout();
        ensure!(
            status.success() && said == LINES,
            "kubectl exec ended with {status}: {said}\n{}",
            command.stderr()
        );
    }
    Ok(count)
}

fn running(logs: &mut [Spawned]) -> Result<usize> {
    let mut count = 0;
    for log in logs {
        count += usize::from(log.exited()?.is_none());
    }
    Ok(count)
}

mod release {
    use super::*;

    #[test]
    fn commands_and_logs_in_a_pod_outlive_a_rolling_restart() -> Result<()> {
        let lab = cluster::lab(3)?;
        let mut plane = ControlPlane::self_published_draining(&lab)?;
        let server = Server::start(&lab, &mut plane, Arm::Apivip)?;
        let mut cluster = Cluster::behind_the_vip(&lab, plane)?;
        let mut talking = Image::new(lab.dir(), "talking", IMAGE)?;
        for tool in ["sh", "sleep"] {
            talking = talking.program(&on_this_machine(tool)?, &format!("/bin/{tool}"))?;
        }
        cluster.node.import(talking)?;
        // The controller-manager makes the service account some time after it leads.
        cluster.wait("a service account", "/api/v1/namespaces/default/serviceaccounts/default", |_| true)?;
        cluster.kubectl_reading(&["apply", "-f", "-"], POD)?;
        let path = "/api/v1/namespaces/default/pods/talking";
        cluster.wait("a Pod that talks", path, |pod| condition(pod, "Ready") == Some("True"))?;
        let kubeconfig = lab.dir().join("user.yaml");
        let authority = kubeconfig::Authority::File(cluster.plane.authority().to_owned());
        let vip = format!("https://{}:{SERVICE_PORT}", lab.vips()[0]);
        kubeconfig::Kubeconfig::new(vip, authority, kubeconfig::User::Token(ADMIN_TOKEN.to_owned()))
            .write(&kubeconfig)?;
        let mut users = Users { lab: &lab, kubeconfig, begun: 0 };
        for i in 1..=3 {
            let restart = restarted(&mut cluster, &mut users, i);
            restart.with_context(|| format!("apiserver {i}; the daemon says\n{}", server.tail()))?;
        }
        Ok(())
    }
}

/// Apiserver `i` stops and comes back.
fn restarted(cluster: &mut Cluster<'_>, users: &mut Users<'_>, i: u8) -> Result<()> {
    let mut logs = users.logs()?;
    let under_way = users.commands()?;
    thread::sleep(Duration::from_secs(2));
    ensure!(running(&mut logs)? == MANY, "not every log is followed: {}", logs[0].stderr());
    cluster.plane.terminate(i)?;
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(1));
    let mut later = users.commands()?;
    thread::sleep(FOLLOWED.saturating_sub(begun.elapsed()));
    let followed = running(&mut logs)?;
    while !cluster.plane.has_ended(i)? {
        if begun.elapsed() > ENDED {
            bail!("it did not end");
        }
        thread::sleep(Duration::from_millis(100));
    }
    let took = begun.elapsed();
    later.extend(users.commands()?);
    let whole = expect_whole(under_way)? + expect_whole(later)?;
    let left = running(&mut logs)?;
    println!(
        "apiserver {i} ended after {took:?}: {whole} commands were whole; {left} of {MANY} logs are followed still"
    );
    ensure!(took >= SHUTDOWN_DELAY, "it ended after {took:?}");
    ensure!(followed == MANY, "{} logs ended while it still served", MANY - followed);
    ensure!(left > 0, "all logs ended with one apiserver");
    cluster.plane.start_again(i)?;
    let all: Vec<_> = (1..=3).map(|i| cluster.plane.apiservers(i)[0]).collect();
    cluster.plane.real()?.wait_for_endpoints(&all, ENDED)
}
