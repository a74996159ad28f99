//! The files of a server that somebody breaks into.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::fleet::Fleet;

/// A server's files, as small as they can be.
#[derive(Debug)]
pub struct Shop(PathBuf);

impl Shop {
    /// Makes them in the test's own directory.
    #[track_caller]
    pub fn make(fleet: &Fleet) -> Self {
        let shop = Self(fleet.dir().join("shop"));
        for (path, text) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("etc/hosts", "127.0.0.1 localhost\n"),
            ("usr/bin/login", "\x7fELF, as it were\n"),
            ("srv/www/index.html", "<h1>Shop</h1>\n"),
            ("var/log/auth.log", "a line\n"),
        ] {
            shop.write(path, text);
        }
        shop
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and makes the directories above it.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Adds to a file.
    #[track_caller]
    pub fn append(&self, path: &str, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.0.join(path)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Somebody gets in: an account, a program in place of another, and what is written anyway.
    #[track_caller]
    pub fn break_in(&self) {
        self.append("etc/passwd", "toor:x:0:0::/:/bin/sh\n");
        self.write("usr/bin/login", "\x7fELF, with a back door\n");
        self.append("var/log/auth.log", "another line\n");
    }
}
