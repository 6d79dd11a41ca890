//! Opening the files of a repository. Whoever can write there can put anything where git keeps its own: a pipe nobody
//! writes to, a socket, a link to somewhere else, a file without end. What is opened here is a regular file, opened
//! without waiting, and no more of it is read than was agreed to.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

/// What becomes of a path whose last part is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// It is refused.
    Refused,
    /// It is followed: the user may keep a file of their own elsewhere.
    Followed,
}

/// Opens a regular file below a directory that is open (or the current one).
pub(super) fn open_at(at: impl AsFd, path: impl rustix::path::Arg, links: Links) -> io::Result<OwnedFd> {
    let links = if links == Links::Followed { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | links;
    let file = match rustix::fs::openat(at, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP) if links == OFlags::NOFOLLOW => return Err(io::Error::other("a symbolic link")),
        // A socket.
        Err(rustix::io::Errno::NXIO) => return Err(io::Error::other("not a regular file")),
        opened => opened?,
    };
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("not a regular file")),
    }
}

/// Opens a regular file; `None` when nothing is there.
pub(super) fn open(path: &Path, links: Links) -> io::Result<Option<File>> {
    match open_at(rustix::fs::CWD, path, links) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a regular file of at most so many bytes; `None` when nothing is there. What is larger is not read at all.
pub(super) fn read(path: &Path, limit: u64, links: Links) -> io::Result<Option<Vec<u8>>> {
    open(path, links)?.map(|file| read_open(file, limit)).transpose()
}

/// Reads an open file of at most so many bytes, however long it becomes meanwhile.
pub(super) fn read_open(file: impl Into<File>, limit: u64) -> io::Result<Vec<u8>> {
    let file: File = file.into();
    let too_large = || io::Error::other(format!("larger than the {limit} bytes that are read of it"));
    let length = file.metadata()?.len();
    if length > limit {
        return Err(too_large());
    }
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit { Err(too_large()) } else { Ok(content) }
}

/// The directory a path's last part is in, reached from `root` without following a link, and that last part. `None` when
/// a directory on the way is not there and is not to be made.
fn walk(root: &Path, path: &str, make: bool) -> io::Result<Option<(OwnedFd, String)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let last = parts.pop().unwrap_or_default().to_owned();
    let mut dir = rustix::fs::open(root, flags, Mode::empty())?;
    for part in parts {
        if make
            && let Err(error) = rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o777))
            && error != rustix::io::Errno::EXIST
        {
            return Err(error.into());
        }
        dir = match rustix::fs::openat(&dir, part, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) if !make => return Ok(None),
            opened => opened?,
        };
    }
    Ok(Some((dir, last)))
}

/// Reads a regular file below `root`, no link followed anywhere below it; `None` when nothing is there.
pub(super) fn read_below(root: &Path, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let Some((dir, name)) = walk(root, path, false)? else { return Ok(None) };
    match open_at(&dir, name.as_str(), Links::Refused) {
        Ok(file) => read_open(file, limit).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file below `root`, no link followed anywhere below it: beside and renamed, so that a reader sees the old file
/// or the new one, never half of it.
pub(super) fn write_below(root: &Path, path: &str, content: &[u8], executable: bool) -> io::Result<()> {
    let Some((dir, name)) = walk(root, path, true)? else { return Err(io::ErrorKind::NotFound.into()) };
    let part = format!(".{name}.slugline-part");
    let _ = rustix::fs::unlinkat(&dir, part.as_str(), AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
    let mut file = File::from(rustix::fs::openat(&dir, part.as_str(), flags, mode)?);
    file.write_all(content)?;
    Ok(rustix::fs::renameat(&dir, part.as_str(), &dir, name.as_str())?)
}

/// Removes a file below `root`, no link followed anywhere below it; one that is not there is as good as removed.
pub(super) fn remove_below(root: &Path, path: &str) -> io::Result<()> {
    let Some((dir, name)) = walk(root, path, false)? else { return Ok(()) };
    match rustix::fs::unlinkat(&dir, name.as_str(), AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_regular_file_of_the_agreed_size_is_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "four").expect("writes");
        symlink(at("file"), at("link")).expect("links");
        symlink(at("loop"), at("loop")).expect("links");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RWXU).expect("makes a pipe");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("binds");
        let sparse = File::create(at("sparse")).expect("creates");
        sparse.set_len(1 << 40).expect("a terabyte of nothing");
        let stay = |name: &str, limit| read(&at(name), limit, Links::Refused);
        assert_eq!(stay("file", 4).expect("reads"), Some(b"four".to_vec()));
        assert_eq!(stay("none", 4).expect("looks"), None);
        assert_eq!(stay("file/below", 4).expect("looks"), None);
        assert!(stay("file", 3).is_err());
        for trap in ["link", "loop", "pipe", "socket", "sparse", "."] {
            assert!(stay(trap, 1 << 20).is_err(), "{trap}");
        }
        assert_eq!(read(&at("link"), 4, Links::Followed).expect("reads"), Some(b"four".to_vec()));
        for trap in ["loop", "pipe", "socket", "sparse"] {
            assert!(read(&at(trap), 1 << 20, Links::Followed).is_err(), "{trap}");
        }
        assert!(read(Path::new("/dev/zero"), 1 << 20, Links::Followed).is_err());
    }

    #[test]
    fn below_a_root_no_link_leads_a_read_a_write_or_a_removal_out_of_it() {
        let (dir, outside) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
        let (root, canary) = (dir.path(), outside.path().join("canary"));
        std::fs::write(&canary, "mine").expect("writes");
        symlink(outside.path(), root.join("link")).expect("links");
        symlink(&canary, root.join("canary")).expect("links");
        for path in ["link/canary", "link/new", "../canary", "/canary", "a/../../canary", ""] {
            assert!(read_below(root, path, 100).is_err(), "{path}");
            assert!(write_below(root, path, b"x", false).is_err(), "{path}");
            assert!(remove_below(root, path).is_err(), "{path}");
        }
        assert!(read_below(root, "canary", 100).is_err());
        write_below(root, "canary", b"ours", true).expect("takes the link's place");
        assert_eq!(read_below(root, "canary", 100).expect("reads"), Some(b"ours".to_vec()));
        write_below(root, "a/b/c", b"deep", false).expect("writes");
        remove_below(root, "a/b/c").expect("removes");
        remove_below(root, "a/b/c").expect("is gone");
        assert_eq!(read_below(root, "a/none/c", 100).expect("looks"), None);
        assert_eq!(std::fs::read_to_string(&canary).expect("is there"), "mine");
        assert_eq!(std::fs::read_dir(outside.path()).expect("lists").count(), 1);
    }
}
