//! Which binaries a daemon executes: the socket is open to its group, and the daemon mostly runs as root.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use rustix::process::geteuid;

/// Write permission of group and others.
const WRITABLE: u32 = 0o022;
/// In a directory: entries can only be replaced by their owners.
const STICKY: u32 = 0o1000;
const EXECUTABLE: u32 = 0o111;

/// The real path of `binary`, which nobody but root and this process' user can change.
///
/// # Errors
/// It is no absolute path of an executable file, or somebody else could replace it.
pub fn check(binary: &Path) -> anyhow::Result<PathBuf> {
    ensure!(binary.is_absolute(), "{} is not an absolute path", binary.display());
    let path = fs::canonicalize(binary).with_context(|| binary.display().to_string())?;
    let metadata = fs::metadata(&path).with_context(|| path.display().to_string())?;
    let executable = metadata.is_file() && metadata.permissions().mode() & EXECUTABLE != 0;
    ensure!(executable, "{} is not an executable file", path.display());
    for part in path.ancestors() {
        let metadata = fs::metadata(part).with_context(|| part.display().to_string())?;
        let (mode, owner) = (metadata.permissions().mode(), metadata.uid());
        let shared = mode & WRITABLE != 0 && !(metadata.is_dir() && mode & STICKY != 0);
        ensure!(
            !shared && (owner == 0 || owner == geteuid().as_raw()),
            "others than root and the daemon's user can change {}, so it is not executed: see its owner and mode",
            part.display()
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn refusal(path: &Path) -> String {
        format!("{:#}", check(path).unwrap_err())
    }

    #[test]
    fn only_what_nobody_else_can_change_is_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("weir");
        assert!(refusal(Path::new("weir")).contains("absolute"));
        assert!(refusal(&file).contains("No such file"));
        fs::write(&file, "#!/bin/sh\n").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(&file, 0o644);
        assert!(refusal(&file).contains("not an executable file"));
        assert!(refusal(directory.path()).contains("not an executable file"));
        set(&file, 0o775);
        assert!(refusal(&file).contains("can change"));
        set(&file, 0o755);
        let real = fs::canonicalize(&file).unwrap();
        assert_eq!(check(&file).unwrap(), real);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(check(&link).unwrap(), real, "what is executed is not a link");
        set(directory.path(), 0o777);
        assert!(refusal(&file).contains("can change"), "it could be replaced");
        set(directory.path(), 0o1777);
        assert_eq!(check(&file).unwrap(), real);
    }
}
