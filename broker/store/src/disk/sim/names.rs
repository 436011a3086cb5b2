//! The names of a disk: what a lookup finds, and what survives a power cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Component, Path},
};

use super::chance::Chance;

/// A file or directory; ids are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    File(u64),
    Dir(u64),
}

/// A name in a directory.
type Place = (u64, String);

/// One atomic change.
#[derive(Clone, Debug)]
struct NameChange {
    removes: Option<(Place, Node)>,
    adds: Option<(Place, Node)>,
}

/// The directory tree. The root is directory 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    now: BTreeMap<Place, Node>,
    durable: BTreeMap<Place, Node>,
    /// Changes that no `sync_dir` has covered, oldest first.
    pending: Vec<NameChange>,
    next_dir: u64,
}

const ROOT: u64 = 0;

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn parts(path: &Path) -> Vec<String> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    names.collect()
}

impl Names {
    fn dir_of(&self, parts: &[String]) -> io::Result<u64> {
        parts.iter().try_fold(ROOT, |dir, name| match self.now.get(&(dir, name.clone())) {
            Some(Node::Dir(inner)) => Ok(*inner),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        })
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let mut parts = parts(path);
        let name = parts.pop().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.dir_of(&parts)?, name))
    }

    /// The file at `path`.
    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.now.get(&self.place(path)?) {
            Some(Node::File(file)) => Ok(*file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn apply(&mut self, change: NameChange) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    /// Links `file` under a name that is not in use.
    pub(super) fn add_file(&mut self, path: &Path, file: u64) -> io::Result<()> {
        let adds = Some((self.place(path)?, Node::File(file)));
        self.apply(NameChange { removes: None, adds });
        Ok(())
    }

    /// Creates a directory and its parents, durably.
    pub(super) fn add_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut dir = ROOT;
        for name in parts(path) {
            let place = (dir, name);
            dir = match self.now.get(&place) {
                Some(Node::Dir(inner)) => *inner,
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => {
                    self.next_dir += 1;
                    let inner = Node::Dir(self.next_dir);
                    self.durable.insert(place.clone(), inner);
                    self.now.insert(place, inner);
                    self.next_dir
                }
            };
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        let node = *self.now.get(&from).ok_or_else(not_found)?;
        self.apply(NameChange { removes: Some((from, node)), adds: Some((to, node)) });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        let node = Node::File(self.file(path)?);
        self.apply(NameChange { removes: Some((place, node)), adds: None });
        Ok(())
    }

    /// Names and nodes in a directory, sorted.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(String, Node)>> {
        let dir = self.dir_of(&parts(path))?;
        let inside = self.now.iter().filter(|((parent, _), _)| *parent == dir);
        Ok(inside.map(|((_, name), node)| (name.clone(), *node)).collect())
    }

    /// Makes a directory's names durable, and earlier changes of the same names elsewhere.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.dir_of(&parts(path))?;
        let mut covered = BTreeSet::new();
        let mut keep = vec![true; self.pending.len()];
        for (i, step) in self.pending.iter().enumerate().rev() {
            let places: Vec<&Place> = step.places().collect();
            if places.iter().any(|place| place.0 == dir || covered.contains(*place)) {
                covered.extend(places.into_iter().cloned());
                keep[i] = false;
            }
        }
        for (step, keep) in std::mem::take(&mut self.pending).into_iter().zip(keep) {
            if keep {
                self.pending.push(step);
            } else {
                step.apply(&mut self.durable);
            }
        }
        Ok(())
    }

    /// What survives a power cut: none, all, the first few or any of the changes that were not durable.
    pub(super) fn after_power_cut(&self, chance: &mut Chance) -> Names {
        let mut now = self.durable.clone();
        let count = self.pending.len();
        let (mode, first) = (chance.below(4), chance.below(count + 1));
        for (i, step) in self.pending.iter().enumerate() {
            let kept = match mode {
                0 => false,
                1 => true,
                2 => i < first,
                _ => chance.coin(),
            };
            if kept {
                step.apply(&mut now);
            }
        }
        Names { durable: now.clone(), now, pending: Vec::new(), next_dir: self.next_dir }
    }

    /// A path of the file.
    pub(super) fn path_of(&self, file: u64) -> Option<String> {
        self.files().into_iter().find(|(_, id)| *id == file).map(|(path, _)| path)
    }

    /// Every file with its path, sorted.
    pub(super) fn files(&self) -> Vec<(String, u64)> {
        let mut out = Vec::new();
        self.files_below(ROOT, "", &mut out);
        out.sort();
        out
    }

    fn files_below(&self, dir: u64, path: &str, out: &mut Vec<(String, u64)>) {
        for ((_, name), node) in self.now.range((dir, String::new())..(dir + 1, String::new())) {
            match node {
                Node::File(file) => out.push((format!("{path}{name}"), *file)),
                Node::Dir(inner) => self.files_below(*inner, &format!("{path}{name}/"), out),
            }
        }
    }
}

impl NameChange {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.removes.iter().chain(&self.adds).map(|(place, _)| place)
    }

    fn apply(&self, names: &mut BTreeMap<Place, Node>) {
        if let Some((place, node)) = &self.removes
            && names.get(place) == Some(node)
        {
            names.remove(place);
        }
        if let Some((place, node)) = &self.adds {
            names.insert(place.clone(), *node);
        }
    }
}
