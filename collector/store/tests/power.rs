//! Power cuts: what is left is what was synced, and of the rest whatever a disk may have kept. kill -9 cannot show that a sync is missing, as the
//! system keeps what was written; here the file system is our own (FUSE) and forgets it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod load;

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use load::{Child, Load, Random};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Nothing is cached.
const NOW: Duration = Duration::ZERO;

/// What the disk makes of writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Policy {
    /// All are gone.
    Drop,
    /// Each file keeps the first few of its own, the last of them torn in the middle.
    Cut,
    /// Each write is kept or not, in 512-byte sectors; each new name is there or not.
    Tear,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug)]
enum Node {
    File {
        data: Vec<u8>,
        synced: Vec<u8>,
        unsynced: Vec<Change>,
    },
    Folder {
        names: BTreeMap<OsString, u64>,
        synced: BTreeMap<OsString, u64>,
    },
}

#[derive(Debug)]
struct Image {
    nodes: BTreeMap<u64, Node>,
    next: u64,
}

/// A disk. Its image outlives each mount.
#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<Image>>);

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::Length(length) => data.resize(*length, 0),
            Self::Write(offset, bytes) => {
                if data.len() < offset + bytes.len() {
                    data.resize(offset + bytes.len(), 0);
                }
                data[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

impl Disk {
    fn new() -> Self {
        let root = Node::Folder {
            names: BTreeMap::new(),
            synced: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(Image {
            nodes: BTreeMap::from([(1, root)]),
            next: 2,
        })))
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mount(&self, at: &Path) -> BackgroundSession {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("denyut-power".into())];
        fuser::spawn_mount(self.clone(), at, &config)
            .expect("mounts (this test needs root and /dev/fuse)")
    }

    /// The power goes and comes back.
    fn cut(&self, policy: Policy, random: &mut Random) {
        let mut image = self.image();
        for node in image.nodes.values_mut() {
            match node {
                Node::File {
                    data,
                    synced,
                    unsynced,
                } => {
                    let keep =
                        usize::try_from(random.below(unsynced.len() as u64 + 1)).expect("small");
                    for (i, change) in unsynced.drain(..).enumerate() {
                        match (policy, &change) {
                            (Policy::Cut, Change::Write(offset, bytes)) if i + 1 == keep => {
                                Change::Write(*offset, bytes[..bytes.len() / 2].to_vec())
                                    .apply(synced);
                            }
                            (Policy::Cut, _) if i < keep => change.apply(synced),
                            (Policy::Tear, Change::Length(_)) if random.below(2) == 0 => {
                                change.apply(synced);
                            }
                            (Policy::Tear, Change::Write(offset, bytes)) => {
                                for (n, sector) in bytes.chunks(512).enumerate() {
                                    if random.below(2) == 0 {
                                        Change::Write(offset + n * 512, sector.to_vec())
                                            .apply(synced);
                                    }
                                }
                            }
                            _ => {}
                        }
                    }
                    data.clone_from(synced);
                }
                Node::Folder { names, synced } => {
                    if policy == Policy::Tear {
                        for (name, node) in &*names {
                            if random.below(2) == 0 {
                                synced.insert(name.clone(), *node);
                            }
                        }
                    }
                    names.clone_from(synced);
                }
            }
        }
        // Whatever no name leads to is gone.
        let mut reached = vec![1];
        let mut at = 0;
        while let Some(node) = reached.get(at) {
            if let Some(Node::Folder { names, .. }) = image.nodes.get(node) {
                reached.extend(names.values().copied().collect::<Vec<_>>());
            }
            at += 1;
        }
        image.nodes.retain(|node, _| reached.contains(node));
    }
}

impl Image {
    fn attributes(&self, node: u64) -> Option<FileAttr> {
        let (kind, size, links) = match self.nodes.get(&node)? {
            Node::File { data, .. } => (FileType::RegularFile, data.len() as u64, 1),
            Node::Folder { .. } => (FileType::Directory, 0, 2),
        };
        Some(FileAttr {
            ino: INodeNo(node),
            size,
            blocks: size.div_ceil(512),
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: links,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn names(&mut self, folder: INodeNo) -> Option<&mut BTreeMap<OsString, u64>> {
        match self.nodes.get_mut(&folder.0)? {
            Node::Folder { names, .. } => Some(names),
            Node::File { .. } => None,
        }
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, node: Node) -> Option<FileAttr> {
        let number = self.next;
        self.names(parent)?.insert(name.to_owned(), number);
        self.next += 1;
        self.nodes.insert(number, node);
        self.attributes(number)
    }

    fn change(&mut self, node: INodeNo, change: Change) {
        if let Some(Node::File { data, unsynced, .. }) = self.nodes.get_mut(&node.0) {
            change.apply(data);
            unsynced.push(change);
        }
    }

    fn sync(&mut self, node: INodeNo) {
        match self.nodes.get_mut(&node.0) {
            Some(Node::File {
                synced, unsynced, ..
            }) => unsynced.drain(..).for_each(|change| change.apply(synced)),
            Some(Node::Folder { names, synced }) => synced.clone_from(names),
            None => {}
        }
    }
}

const fn file() -> Node {
    Node::File {
        data: Vec::new(),
        synced: Vec::new(),
        unsynced: Vec::new(),
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut image = self.image();
        let node = image
            .names(parent)
            .and_then(|names| names.get(name).copied());
        match node.and_then(|node| image.attributes(node)) {
            Some(attributes) => reply.entry(&NOW, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.image().attributes(node.0) {
            Some(attributes) => reply.attr(&NOW, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut image = self.image();
        if let Some(size) = size {
            image.change(node, Change::Length(usize::try_from(size).expect("small")));
        }
        match image.attributes(node.0) {
            Some(attributes) => reply.attr(&NOW, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let folder = Node::Folder {
            names: BTreeMap::new(),
            synced: BTreeMap::new(),
        };
        match self.image().add(parent, name, folder) {
            Some(attributes) => reply.entry(&NOW, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.image().add(parent, name, file()) {
            Some(attributes) => reply.created(
                &NOW,
                &attributes,
                Generation(0),
                FileHandle(0),
                FopenFlags::empty(),
            ),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        // The node stays: who has it open goes on, and after a power cut its name may be back.
        match self
            .image()
            .names(parent)
            .and_then(|names| names.remove(name))
        {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut image = self.image();
        let Some(node) = image.names(parent).and_then(|names| names.remove(name)) else {
            return reply.error(Errno::ENOENT);
        };
        if let Some(names) = image.names(new_parent) {
            names.insert(new_name.to_owned(), node);
        }
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.image().nodes.get(&node.0) {
            Some(Node::File { data, .. }) => {
                let from = usize::try_from(offset).expect("small").min(data.len());
                reply.data(&data[from..(from + size as usize).min(data.len())]);
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.image().change(
            node,
            Change::Write(usize::try_from(offset).expect("small"), data.to_vec()),
        );
        reply.written(u32::try_from(data.len()).expect("small"));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.image().sync(node);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.image().sync(node);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut image = self.image();
        let Some(names) = image.names(node).cloned() else {
            return reply.error(Errno::ENOENT);
        };
        for (i, (name, node)) in (1..)
            .zip(names)
            .skip(usize::try_from(offset).expect("small"))
        {
            let kind = match image.nodes.get(&node) {
                Some(Node::Folder { .. }) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(node), i, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 24, 1 << 24, 1 << 24, 0, 0, 4096, 255, 0);
    }
}

/// The child: not a test of its own.
#[test]
#[ignore = "started by the other test"]
fn child() {
    if let Some(folder) = std::env::var_os(load::FOLDER) {
        Load::open(folder.as_ref()).run();
    }
}

/// The same, which checks and ends.
#[test]
#[ignore = "started by the other test"]
fn checker() {
    if let Some(folder) = std::env::var_os(load::FOLDER) {
        Load::open(folder.as_ref()).check(load::Told::from_environment());
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must be able to mount FUSE"
        );
        eprintln!("*** SKIPPED: this test needs root and /dev/fuse ***");
        return;
    }
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for policy in [Policy::Drop, Policy::Cut, Policy::Tear] {
        let mut disk = Disk::new();
        let at = tempfile::tempdir().expect("tempdir");
        let mut told = load::Told::default();
        for point in 0..load::times(40) / 3 {
            // What there is to check grows with each.
            if point % 40 == 39 {
                (disk, told) = (Disk::new(), load::Told::default());
            }
            let mounted = disk.mount(at.path());
            let mut child = Child::start(at.path());
            told = child.run_for(Duration::from_millis(random.below(250)), told);
            child.kill();
            unmount(mounted);
            disk.cut(policy, &mut random);
            let mounted = disk.mount(at.path());
            let sound = load::check_in_child(at.path(), told);
            unmount(mounted);
            assert!(sound, "{policy:?}, power cut {point}: {told:?}");
        }
        eprintln!("{policy:?}: {told:?}");
    }
}

fn unmount(mounted: BackgroundSession) {
    // The kernel may end the connection before the session has read its last word.
    if let Err(error) = mounted.umount_and_join() {
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionAborted,
            "{error}"
        );
    }
}
