//! User and password.

use std::path::PathBuf;

use hither_core::Result;

use super::{EtcdConfig, invalid, read};

/// The password, or the file with it.
#[derive(Clone)]
pub(super) enum Password {
    Text(String),
    File(PathBuf),
}

impl EtcdConfig {
    /// Name and password, as they are now.
    ///
    /// # Errors
    /// `InvalidArgument` when only one of them is given, or the file cannot be read, is empty or is not UTF-8.
    pub(crate) fn credentials(&self) -> Result<Option<(String, String)>> {
        match (&self.user, &self.password) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(invalid("a password for etcd needs a user")),
            (Some(user), None) => {
                Err(invalid(format!("the etcd user {:?} has no password", without_password(user))))
            }
            (Some(user), Some(Password::Text(password))) => Ok(Some((user.clone(), password.clone()))),
            (Some(user), Some(Password::File(file))) => {
                let text = read(file, "the password of etcd")?;
                // Neither without a password nor with a changed one: etcd would refuse it, and the reason would be a guess.
                let text = String::from_utf8(text)
                    .map_err(|_| invalid(format!("password file {} is not UTF-8", file.display())))?;
                match text.lines().next() {
                    Some(password) if !password.is_empty() => Ok(Some((user.clone(), password.to_owned()))),
                    _ => Err(invalid(format!("password file {} is empty", file.display()))),
                }
            }
        }
    }
}

/// A text that is given for a name may have the password in it.
pub(super) fn without_password(user: &str) -> &str {
    user.split(':').next().unwrap_or_default()
}
