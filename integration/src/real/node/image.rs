//! Images of containers, made of programs of this machine and the libraries that they load.
//! In: programs and where they belong. Out: an OCI archive of one layer, as `ctr images import` takes it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::command;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Files that become an image, in a folder that shows the image's root.
#[derive(Debug)]
pub struct Image {
    name: String,
    folder: PathBuf,
    entrypoint: Vec<String>,
}

impl Image {
    /// An empty one. Its files gather in `FOLDER/TITLE`; `name` is how Pods ask for it, with a tag.
    pub fn new(folder: &Path, title: &str, name: &str) -> Result<Self> {
        let folder = folder.join(title);
        fs::create_dir_all(folder.join("root")).context("make an image's folder")?;
        Ok(Self { name: name.to_owned(), folder, entrypoint: Vec::new() })
    }

    /// What a container runs that is not told otherwise.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(ToString::to_string).collect();
        self
    }

    /// With this program at `inside`, and the libraries that it loads where it looks for them.
    pub fn program(self, program: &Path, inside: &str) -> Result<Self> {
        self.add(program, Path::new(inside))?;
        for library in libraries(program)? {
            self.add(&library, &library)?;
        }
        Ok(self)
    }

    fn add(&self, file: &Path, inside: &Path) -> Result<()> {
        let to = self.folder.join("root").join(inside.strip_prefix("/").unwrap_or(inside));
        if to.exists() {
            return Ok(());
        }
        fs::create_dir_all(to.parent().context("a file has a folder")?).context("make a folder")?;
        fs::copy(file, &to).with_context(|| format!("copy {} into an image", file.display()))?;
        Ok(())
    }

    /// Writes the archive and returns its path.
    pub fn write(self) -> Result<PathBuf> {
        let blobs = self.folder.join("archive/blobs/sha256");
        fs::create_dir_all(&blobs).context("make the folder of blobs")?;
        let layer = self.folder.join("layer");
        tar(&self.folder.join("root"), &layer)?;
        let (layer, difference) = keep(&blobs, &layer, LAYER)?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [difference] },
        });
        let (config, _) = self.keep_json(&blobs, "config", CONFIG, &config)?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        let (mut manifest, _) = self.keep_json(&blobs, "manifest", MANIFEST, &manifest)?;
        manifest["annotations"] = json!({ "io.containerd.image.name": self.name });
        let archive = self.folder.join("archive");
        let write = |name: &str, value: Value| {
            fs::write(archive.join(name), value.to_string()).with_context(|| format!("write {name}"))
        };
        write("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))?;
        write("index.json", json!({ "schemaVersion": 2, "manifests": [manifest] }))?;
        let written = self.folder.with_extension("tar");
        tar(&archive, &written)?;
        fs::remove_dir_all(&self.folder).context("remove what an image was made of")?;
        Ok(written)
    }

    fn keep_json(
        &self,
        blobs: &Path,
        name: &str,
        media_type: &str,
        value: &Value,
    ) -> Result<(Value, String)> {
        let path = self.folder.join(name);
        fs::write(&path, value.to_string()).with_context(|| format!("write an image's {name}"))?;
        keep(blobs, &path, media_type)
    }
}

/// Moves a file among the blobs, and returns its descriptor and its digest.
fn keep(blobs: &Path, file: &Path, media_type: &str) -> Result<(Value, String)> {
    let mut sum = Command::new("sha256sum");
    sum.arg(file);
    let said = command::run(sum, "")?;
    let hex = said.split_whitespace().next().context("sha256sum said nothing")?;
    let size = fs::metadata(file).context("measure a blob")?.len();
    fs::rename(file, blobs.join(hex)).context("move a blob")?;
    let digest = format!("sha256:{hex}");
    Ok((json!({ "mediaType": media_type, "digest": digest, "size": size }), digest))
}

/// All of a folder, owned by root.
fn tar(folder: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .arg(".");
    command::run(tar, "").map(drop)
}

/// The shared libraries of a program, and what loads them; none where it is static.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LC_ALL", "C");
    let finished = command::finish(ldd, "", command::COMMAND_LIMIT)?;
    let said = finished.stdout + &finished.stderr;
    if said.contains("not a dynamic executable") || said.contains("statically linked") {
        return Ok(Vec::new());
    }
    ensure!(
        finished.status.success() && !said.contains("not found"),
        "{} lacks libraries: {said}",
        program.display()
    );
    let words = said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

/// The machine's own, by the name that images have for it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The path of a program in the machine's own folders.
pub fn on_this_machine(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("PATH is not set")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    let found =
        found.with_context(|| format!("this test needs the program `{name}`: run scripts/test packages"))?;
    // Debian's /bin is a link to /usr/bin, and some programs are links to others.
    fs::canonicalize(&found).with_context(|| format!("resolve {}", OsStr::to_string_lossy(found.as_os_str())))
}
