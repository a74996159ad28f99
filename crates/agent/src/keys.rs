//! This host's keys in a HyperSpector: the one in use, and the next while it is changed.
//!
//! The spec says which are this host's. With both in it, the embedded VPN uses the next key with
//! every peer that answers to it; once all do, or when the spec has the next alone, that takes the
//! place of the old one.

use hyperspector_spec::plan::VpnPlan;
use hyperspector_vpn::keys::{KeyError, PublicKey, SecretKey};
use hyperspector_vpn::status::{Backend, Status};

use crate::error::{Doing, Error, on};
use crate::layout::{Layout, private_dir};

/// The keys of this host in a HyperSpector, made where there is none.
#[derive(Debug)]
pub struct OwnKeys {
    /// The one in use.
    pub key: SecretKey,
    /// The one that it is to be changed to, where that was begun.
    pub next: Option<SecretKey>,
}

impl OwnKeys {
    /// Reads them, and makes the first where there is none.
    ///
    /// # Errors
    /// Where a file cannot be made, or others can read it.
    pub fn load(layout: &Layout, hyperspector: &str) -> Result<Self, Error> {
        let (path, next) = (layout.key(hyperspector), layout.next_key(hyperspector));
        if let Some(directory) = path.parent() {
            private_dir(directory).doing(on("make", directory))?;
        }
        let key = SecretKey::load_or_create(&path).doing(on("load", &path))?;
        let next = match SecretKey::load(&next) {
            Err(KeyError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                None
            }
            other => Some(other.doing(on("load", &next))?),
        };
        Ok(Self { key, next })
    }

    /// Reads them, and makes a next key where there is none.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn rotate(layout: &Layout, hyperspector: &str) -> Result<Self, Error> {
        let mut keys = Self::load(layout, hyperspector)?;
        let next = layout.next_key(hyperspector);
        keys.next = Some(SecretKey::load_or_create(&next).doing(on("make", &next))?);
        Ok(keys)
    }

    /// The line for the spec: `key.alpha = "…"`.
    pub fn line(&self, hyperspector: &str) -> String {
        let key = self.key.public();
        match &self.next {
            None => format!("key.{hyperspector} = \"{key}\""),
            Some(next) => format!("key.{hyperspector} = [\"{key}\", \"{}\"]", next.public()),
        }
    }

    /// Those of them that the spec has, the one to use first; what it has not any more is dropped.
    fn wanted(self, layout: &Layout, hyperspector: &str, spec: &VpnPlan) -> Result<Self, Error> {
        let is = |key: &SecretKey, text: &str| key.public().to_string() == text;
        let is_named = |key: &SecretKey| spec.keys().any(|text| is(key, text));
        let is_own = |text: &str| is(&self.key, text) || self.next.iter().any(|k| is(k, text));
        // The first of two may be one that was dropped when everybody had the second.
        if spec.keys().last().is_some_and(|last| !is_own(last)) {
            let which = if spec.keys().any(is_own) { "a next key that is not" } else { "not" };
            let line = self.line(hyperspector);
            let why = format!("the spec has {which} this host's own key; its line is {line}");
            return Err(Error::new(format!("take the keys of {hyperspector}"), why));
        }
        let is_first_named = spec.public_key.is_none() || is_named(&self.key);
        match self.next.filter(|next| is_named(next)) {
            Some(_) if !is_first_named => succeed(layout, hyperspector),
            next => Ok(Self { key: self.key, next }),
        }
    }
}

/// Drops the key in use for the next one.
fn succeed(layout: &Layout, hyperspector: &str) -> Result<OwnKeys, Error> {
    let (path, next) = (layout.key(hyperspector), layout.next_key(hyperspector));
    SecretKey::succeed(&path, &next).doing(on("replace", &path))?;
    OwnKeys::load(layout, hyperspector)
}

/// This host's keys as the spec and the files have them, the one to use first.
///
/// # Errors
/// Where the spec has another key for this host.
pub(crate) fn wanted(
    layout: &Layout,
    hyperspector: &str,
    spec: &VpnPlan,
    backend: Option<Backend>,
) -> Result<Vec<SecretKey>, Error> {
    let OwnKeys { key, next } =
        OwnKeys::load(layout, hyperspector)?.wanted(layout, hyperspector, spec)?;
    let mut keys: Vec<_> = [Some(key), next].into_iter().flatten().collect();
    if backend == Some(Backend::Kernel) {
        // It has one at a time: the one that the spec has first.
        let first = |key: &SecretKey| Some(key.public().to_string()) != spec.public_key;
        keys.sort_by_key(first);
        keys.truncate(1);
    }
    Ok(keys)
}

/// Whether every peer has agreed on a session with the next key. Not where the spec has that before the
/// old one, as the kernel's WireGuard wants it: it would then name one that is gone as the last.
pub(crate) fn is_known_to_all(spec: &VpnPlan, status: &Status) -> bool {
    let is_last = |key: &PublicKey| spec.next_key.as_deref() == Some(&*key.to_string());
    let Some(next) = status.next_key.filter(is_last) else { return false };
    let lacks = lacking(spec, status, next);
    !spec.peers.is_empty() && lacks.is_empty()
}

/// The peers that have not agreed on a session with this key of ours.
pub(crate) fn lacking(spec: &VpnPlan, status: &Status, ours: PublicKey) -> Vec<String> {
    let has = |keys: &[PublicKey]| {
        status.peer(keys).and_then(|peer| peer.keys).is_some_and(|keys| keys.ours == ours)
    };
    let lacking = spec.peers.iter().filter(|peer| !has(&public_keys(peer.keys())));
    lacking.map(|peer| peer.host.clone()).collect()
}

/// Puts the next key in the place of the old one, which nobody needs any more.
pub(crate) fn finish(layout: &Layout, hyperspector: &str) -> Result<(), Error> {
    if !layout.next_key(hyperspector).exists() {
        // An agent that was killed has come as far as this.
        return Ok(());
    }
    succeed(layout, hyperspector).map(drop)
}

/// Keys from their text; those that are none are left out.
pub(crate) fn public_keys<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<PublicKey> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(folder: &std::path::Path) -> Layout {
        Layout::prepare(&folder.join("state"), &folder.join("run")).unwrap()
    }

    fn spec(keys: &[String]) -> VpnPlan {
        VpnPlan {
            networks: Vec::new(),
            listen_port: 1,
            backend: hyperspector_spec::plan::VpnBackend::Auto,
            mtu: 1420,
            public_key: keys.first().cloned(),
            next_key: keys.get(1).cloned(),
            peers: Vec::new(),
        }
    }

    #[test]
    fn the_spec_says_which_keys_are_used_and_which_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        let named = |keys: &[&String]| {
            let keys: Vec<_> = keys.iter().map(|key| (*key).clone()).collect();
            let backend = Some(Backend::Embedded);
            let keys = wanted(&layout, "a", &spec(&keys), backend).map_err(|e| e.to_string())?;
            Ok::<_, String>(keys.iter().map(|key| key.public().to_string()).collect::<Vec<_>>())
        };
        let keys = OwnKeys::load(&layout, "a").unwrap();
        let old = keys.key.public().to_string();
        assert_eq!(keys.line("a"), format!("key.a = \"{old}\""));
        assert_eq!(named(&[]).unwrap(), vec![old.clone()]);
        let keys = OwnKeys::rotate(&layout, "a").unwrap();
        let new = keys.next.as_ref().unwrap().public().to_string();
        assert_eq!(keys.line("a"), format!("key.a = [\"{old}\", \"{new}\"]"));
        assert_eq!(OwnKeys::rotate(&layout, "a").unwrap().line("a"), keys.line("a"));

        let other = SecretKey::generate().unwrap().public().to_string();
        assert_eq!(named(&[&old]).unwrap(), vec![old.clone()]);
        assert_eq!(named(&[&old, &new]).unwrap(), [old.clone(), new.clone()]);
        assert_eq!(named(&[&new, &old]).unwrap(), [old.clone(), new.clone()]);
        assert!(named(&[&other]).unwrap_err().contains("key.a = ["));
        assert!(named(&[&old, &other]).unwrap_err().contains("a next key that is not"));
        let kernel = spec(&[new.clone(), old.clone()]);
        let kernel = wanted(&layout, "a", &kernel, Some(Backend::Kernel)).unwrap();
        assert_eq!((kernel.len(), kernel[0].public().to_string()), (1, new.clone()));
        // Once the spec has the new one alone, the old one is gone for good.
        assert_eq!(named(&[&new]).unwrap(), vec![new.clone()]);
        assert!(named(&[&old]).is_err());
        assert_eq!(named(&[&old, &new]).unwrap(), [new]);
    }
}
