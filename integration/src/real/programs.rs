//! Where the programs of Kubernetes are. In: the environment. Out: the path of each, which `scripts/real-control-plane` built.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Names the release that is built without any argument.
const MODULE: &str = include_str!("../../kubernetes/go.mod");

/// The path of a program of Kubernetes, such as `kube-apiserver`, `etcd` or `kubectl`: in the folder `APIVIP_KUBE_BIN`, else in
/// the cache, in the folder of [`version`].
pub fn cached(name: &str) -> Result<PathBuf> {
    let user = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let cache = || set("APIVIP_CACHE").or_else(|| Some(user()?.join("apivip")));
    let folder = match set("APIVIP_KUBE_BIN") {
        Some(folder) => folder,
        None => cache()
            .context("neither APIVIP_CACHE nor HOME is set")?
            .join(format!("kubernetes-{}", version()?)),
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing: run scripts/real-control-plane first", path.display());
    }
    Ok(path)
}

/// The release of Kubernetes, such as `1.37.2`: that of `APIVIP_KUBE_VERSION`, else the one that go.mod asks for.
pub fn version() -> Result<String> {
    match std::env::var("APIVIP_KUBE_VERSION") {
        Ok(version) if !version.is_empty() => Ok(version),
        _ => asked_for(MODULE).map(str::to_owned),
    }
}

fn asked_for(module: &str) -> Result<&str> {
    let mut releases = module.lines().filter_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    releases.next().context("integration/kubernetes/go.mod names no release of Kubernetes")
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_names_the_release() {
        let version = asked_for(MODULE).unwrap();
        assert!(version.starts_with("1.") && version.split('.').count() == 3, "{version}");
        assert!(asked_for("require (\n\tk8s.io/api v0.37.2\n)").is_err());
    }
}
