//! A real browser inside a namespace: Chromium without a window, driven by the few WebDriver calls that are needed.
//! In: a namespace, a folder, how it is to behave. Out: a [`Browser`] that opens pages, looks at them, and takes pictures.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::command;
use crate::netns::Namespace;
use crate::process::Spawned;

/// Where the driver listens inside the namespace.
const DRIVER: &str = "127.0.0.1:9515";
/// Longest until the driver answers, and until it has a browser. Seconds are usual on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running browser. Dropping it ends it.
#[derive(Debug)]
pub struct Browser<'lab> {
    inside: &'lab Namespace,
    session: String,
    // Ended last: it takes the browser with it.
    _driver: Spawned,
}

impl<'lab> Browser<'lab> {
    /// Starts it with an empty profile in `folder`. Without `scripting` pages run no scripts.
    pub fn start(inside: &'lab Namespace, folder: &Path, scripting: bool) -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("profile-").tempdir_in(folder)?.keep();
        let mut driver = inside.command("chromedriver");
        driver.arg("--port=9515").env("HOME", &profile);
        let mut driver = Spawned::start("chromedriver", driver, folder)
            .context("this test needs the Debian packages chromium and chromium-driver")?;
        driver.wait_until("an answer", START_LIMIT, |_| Ok(call(inside, "GET", "/status", None).ok()))?;
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--window-size=1100,1000",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": { "args": arguments },
        } } });
        let begun = call(inside, "POST", "/session", Some(&wanted))?;
        let session = begun["sessionId"].as_str().context("the driver began no session")?.to_owned();
        let browser = Self { inside, session, _driver: driver };
        if !scripting {
            browser.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": true }))?;
        }
        Ok(browser)
    }

    /// Opens a page.
    pub fn open(&self, url: &str) -> Result<()> {
        self.call("POST", "/url", Some(&json!({ "url": url }))).map(drop)
    }

    /// The title of the page.
    pub fn title(&self) -> Result<String> {
        Ok(self.call("GET", "/title", None)?.as_str().unwrap_or_default().to_owned())
    }

    /// The visible text of the first element that a selector names.
    pub fn text(&self, selector: &str) -> Result<String> {
        let element = json!({ "using": "css selector", "value": selector });
        let found = self.call("POST", "/element", Some(&element))?;
        let id = found.as_object().and_then(|names| names.values().next()).and_then(Value::as_str);
        let path = format!("/element/{}/text", id.with_context(|| format!("find {selector}"))?);
        Ok(self.call("GET", &path, None)?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the visible text of an element is as `wanted` says.
    pub fn wait_for_text(
        &self,
        selector: &str,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            // An element may be replaced between two questions.
            match self.text(selector) {
                Ok(text) if wanted(&text) => return Ok(text),
                other if Instant::now() > end => bail!("no sign of {what} in {selector}, but {other:?}"),
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Runs a script and returns what it returns.
    pub fn script(&self, script: &str) -> Result<Value> {
        self.call("POST", "/execute/sync", Some(&json!({ "script": script, "args": [] })))
    }

    /// Presses a key.
    pub fn press(&self, key: &str) -> Result<()> {
        let presses = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": presses }] });
        self.call("POST", "/actions", Some(&actions)).map(drop)
    }

    /// Shows pages as a window of this width does, in the dark or not.
    pub fn appear(&self, width: u32, dark: bool) -> Result<()> {
        let metrics =
            json!({ "width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics)?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &media).map(drop)
    }

    /// Stores a picture of the whole page.
    pub fn picture(&self, path: &Path) -> Result<()> {
        let wanted = json!({ "format": "png", "captureBeyondViewport": true });
        let taken = self.devtools("Page.captureScreenshot", &wanted)?;
        let bytes = STANDARD.decode(taken["data"].as_str().context("the browser took no picture")?)?;
        fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.call("POST", "/goog/cdp/execute", Some(&json!({ "cmd": command, "params": parameters })))
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        call(self.inside, method, &format!("/session/{}{path}", self.session), body)
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        if let Err(error) = call(self.inside, "DELETE", &format!("/session/{}", self.session), None) {
            eprintln!("end the browser: {error:#}");
        }
    }
}

/// One call of the driver; its answer's value.
fn call(inside: &Namespace, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let mut curl = inside.command("curl");
    curl.args(["-sS", "-m", "60", "--noproxy", "*", "-X", method]);
    if body.is_some() {
        curl.args(["-H", "Content-Type: application/json", "--data-binary", "@-"]);
    }
    curl.arg(format!("http://{DRIVER}{path}"));
    let text = command::finish(curl, &body.map(Value::to_string).unwrap_or_default(), 2 * START_LIMIT)?;
    let answer: Value = serde_json::from_str(&text.stdout)
        .with_context(|| format!("{method} {path}: {}{}", text.stdout, text.stderr))?;
    if let Some(error) = answer["value"]["error"].as_str() {
        bail!("{method} {path}: {error}: {}", answer["value"]["message"].as_str().unwrap_or_default());
    }
    Ok(answer["value"].clone())
}
