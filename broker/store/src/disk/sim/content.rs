//! The content of one file: what a reader sees, and what survives a power cut.

use std::ops::Range;

use super::chance::Chance;
use crate::disk::BLOCK_BYTES;

/// A sector is written atomically; anything larger can be torn.
pub(super) const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    /// Bytes, and whether they were durable when the write returned.
    Write {
        at: usize,
        data: Vec<u8>,
        durable: bool,
    },
    SetLen(usize),
}

/// A file's bytes.
///
/// Invariant: without `base`, what a reader sees is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    now: Vec<u8>,
    /// The durable content, where it differs from what a reader sees.
    base: Option<Vec<u8>>,
    /// Changes that a reader sees and no sync has covered, oldest first.
    pending: Vec<Change>,
    /// A sync has failed: what it should have covered never becomes durable.
    lossy: bool,
    /// Ranges where reads fail.
    bad: Vec<Range<usize>>,
}

impl Content {
    pub(super) fn from_bytes(now: Vec<u8>) -> Content {
        Content { now, ..Content::default() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.now
    }

    pub(super) fn len(&self) -> usize {
        self.now.len()
    }

    /// Corrupts bytes, on the medium too.
    pub(super) fn rot(&mut self, change: impl Fn(&mut [u8])) {
        change(&mut self.now);
        if let Some(base) = &mut self.base {
            change(base);
        }
    }

    pub(super) fn spoil(&mut self, range: Range<usize>) {
        self.bad.push(range);
    }

    pub(super) fn is_bad(&self, range: &Range<usize>) -> bool {
        self.bad.iter().any(|bad| bad.start < range.end && range.start < bad.end)
    }

    /// A write through the page cache.
    pub(super) fn write(&mut self, at: usize, data: &[u8]) {
        self.change(Change::Write { at, data: data.to_vec(), durable: false });
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.change(Change::SetLen(len));
    }

    /// A write that is durable when it returns. Other pending changes stay pending.
    pub(super) fn write_durably(&mut self, at: usize, data: &[u8]) {
        let change = Change::Write { at, data: data.to_vec(), durable: true };
        if self.base.is_some() {
            self.change(change);
        } else {
            change.apply(&mut self.now);
        }
    }

    fn change(&mut self, change: Change) {
        self.base.get_or_insert_with(|| self.now.clone());
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        if self.lossy {
            let pending = std::mem::take(&mut self.pending);
            if let Some(base) = &mut self.base {
                pending.iter().for_each(|change| change.apply(base));
            }
        } else {
            self.pending.clear();
            self.base = None;
        }
    }

    /// A sync that reports an error: some of it is durable, and no later sync tries the rest again.
    pub(super) fn sync_badly(&mut self, chance: &mut Chance) {
        if self.pending.is_empty() {
            return;
        }
        self.base = Some(self.after_power_cut(chance));
        self.pending.clear();
        self.lossy = true;
    }

    /// Drops cached pages that the medium does not have.
    pub(super) fn drop_clean(&mut self) {
        if let (true, Some(base)) = (self.lossy, &self.base) {
            self.now = base.clone();
            self.pending.iter().for_each(|change| change.apply(&mut self.now));
            self.lossy = false;
        }
    }

    /// What survives a power cut: any mixture of durable and pending changes, page by page or sector by
    /// sector, in any order.
    pub(super) fn after_power_cut(&self, chance: &mut Chance) -> Vec<u8> {
        let Some(base) = &self.base else { return self.now.clone() };
        let count = self.pending.len();
        let mode = chance.below(4);
        // The number of changes applied, of which the first few are certain.
        let seen = |certain: usize, chance: &mut Chance| match mode {
            0 => certain,
            1 => count,
            _ => certain + chance.below(count - certain + 1),
        };
        let len = self.len_after(base.len(), seen(self.certain(&(0..usize::MAX)), chance));
        let mut out = base.clone();
        out.resize(out.len().max(self.now.len()).max(len), 0);
        let unit = if chance.below(4) == 0 { SECTOR_BYTES } else { BLOCK_BYTES };
        for start in (0..out.len()).step_by(unit) {
            let range = start..(start + unit).min(out.len());
            if self.pending.iter().any(|change| change.touches(&range)) {
                let seen = seen(self.certain(&range), chance);
                self.pending[..seen].iter().for_each(|change| change.apply_within(&mut out, &range));
            }
        }
        out.truncate(len);
        out
    }

    /// How many of the changes a write of this range makes durable.
    fn certain(&self, range: &Range<usize>) -> usize {
        let durable =
            |change: &Change| matches!(change, Change::Write { durable: true, .. }) && change.touches(range);
        self.pending.iter().rposition(durable).map_or(0, |last| last + 1)
    }

    fn len_after(&self, base_len: usize, seen: usize) -> usize {
        self.pending[..seen].iter().fold(base_len, |len, change| match change {
            Change::Write { at, data, .. } => len.max(at + data.len()),
            Change::SetLen(len) => *len,
        })
    }
}

impl Change {
    fn apply(&self, out: &mut Vec<u8>) {
        match self {
            Change::Write { at, data, .. } => {
                out.resize(out.len().max(at + data.len()), 0);
                out[*at..at + data.len()].copy_from_slice(data);
            }
            Change::SetLen(len) => out.resize(*len, 0),
        }
    }

    fn touches(&self, range: &Range<usize>) -> bool {
        match self {
            Change::Write { at, data, .. } => *at < range.end && range.start < at + data.len(),
            Change::SetLen(len) => *len < range.end,
        }
    }

    /// Applies the part that lies in `range`; the caller handles lengths.
    fn apply_within(&self, out: &mut [u8], range: &Range<usize>) {
        match self {
            Change::Write { at, data, .. } => {
                let (start, end) = (range.start.max(*at), range.end.min(at + data.len()));
                if start < end {
                    out[start..end].copy_from_slice(&data[start - at..end - at]);
                }
            }
            Change::SetLen(len) => {
                let start = range.start.max(*len);
                if start < range.end {
                    out[start..range.end].fill(0);
                }
            }
        }
    }
}

/// The sectors of a failed write that reached the medium: none, all, the first few, or any.
pub(super) fn torn_ranges(len: usize, chance: &mut Chance) -> Vec<Range<usize>> {
    let sectors = len.div_ceil(SECTOR_BYTES);
    let sector = |i: usize| i * SECTOR_BYTES..((i + 1) * SECTOR_BYTES).min(len);
    match chance.below(4) {
        0 => Vec::new(),
        1 => (0..sectors).map(sector).collect(),
        2 => {
            let kept = chance.below(sectors + 1);
            (0..kept).map(sector).collect()
        }
        _ => (0..sectors).filter(|_| chance.coin()).map(sector).collect(),
    }
}
