//! A list sorted by id whose copies share what has not changed.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::FlatMap;
use std::ops::Index;
use std::slice;
use std::sync::Arc;

use tokio::task::coop::consume_budget;

use super::change::{Change, change};
use crate::{Instance, InstanceId};

/// The most elements of a chunk. A change copies one chunk and the list of chunks: some microseconds for each, which are
/// the same size at 50,000 elements.
const MAX: usize = 256;
/// The elements of a chunk that is built from a whole list: some may come before it is split.
const FILL: usize = 192;
/// A chunk with fewer elements is merged with a neighbour if there is room.
const MIN: usize = 64;

/// How many elements are dropped before the next look at the budget of the task.
const DISCARDED: usize = 8;

/// An element of a [`SortedById`].
pub trait HasId {
    /// The id by which the element is sorted and found. It never changes.
    fn id(&self) -> &InstanceId;
}

impl HasId for Arc<Instance> {
    fn id(&self) -> &InstanceId {
        Instance::id(self)
    }
}

/// A list sorted by id, with at most one element of each id: the instances of a [`Snapshot`](crate::Snapshot), for one.
///
/// Its copies share what they have in common. So a copy costs nothing, a change of one element costs about the same
/// whatever the size of the list, and comparing two versions costs what their difference does.
///
/// ```
/// use std::sync::Arc;
/// use hither_core::{Change, Instance, SortedById};
///
/// let a = Arc::new(Instance::new("10.0.0.1:80".parse()?));
/// let b = Arc::new(Instance::new("10.0.0.2:80".parse()?));
/// let before = SortedById::from_iter([b.clone()]);
/// let mut after = before.clone();
/// after.insert(a.clone());
/// assert_eq!(after.iter().collect::<Vec<_>>(), [&a, &b]);
/// assert_eq!(after[0], a);
/// assert_eq!(after.diff(&before), [Change::Insert(a)]);
/// # Ok::<(), hither_core::Error>(())
/// ```
pub struct SortedById<T> {
    table: Arc<Table<T>>,
    len: usize,
}

/// The chunks, none of which is empty.
#[derive(Clone)]
struct Table<T> {
    chunks: Vec<Arc<Vec<T>>>,
    /// The index of each chunk's first element.
    starts: Vec<usize>,
}

impl<T> SortedById<T> {
    /// Returns an empty list.
    pub fn new() -> Self {
        Self::of_chunks(Vec::new())
    }

    /// The number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the element at a position, in the order of the ids.
    #[inline]
    pub fn at(&self, index: usize) -> Option<&T> {
        let Table { chunks, starts } = &*self.table;
        // Most lists are short.
        if let [only] = &chunks[..] {
            return only.get(index);
        }
        let chunk = starts.partition_point(|start| *start <= index).checked_sub(1)?;
        chunks[chunk].get(index - starts[chunk])
    }

    /// Iterates over the elements, sorted by id.
    pub fn iter(&self) -> SortedIter<'_, T> {
        let elements: Elements<'_, T> = |chunk| chunk.iter();
        SortedIter { rest: self.table.chunks.iter().flat_map(elements), len: self.len }
    }

    /// Whether both are the same version: they share everything.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table)
    }

    /// Drops the list, and yields in between: dropping the last list with many elements takes as long as it takes to free
    /// them all.
    ///
    /// # Cancellation
    /// The rest is dropped at once.
    pub async fn discard(self) {
        // What another list shares costs nothing.
        for chunk in Arc::into_inner(self.table).into_iter().flat_map(|table| table.chunks) {
            let Some(mut elements) = Arc::into_inner(chunk) else { continue };
            while !elements.is_empty() {
                consume_budget().await;
                elements.truncate(elements.len().saturating_sub(DISCARDED));
            }
        }
    }

    fn of_chunks(chunks: Vec<Arc<Vec<T>>>) -> Self {
        let mut table = Table { chunks, starts: Vec::new() };
        let len = table.number(0);
        Self { table: Arc::new(table), len }
    }
}

impl<T: HasId> SortedById<T> {
    /// Returns the element with this id.
    pub fn get(&self, id: &InstanceId) -> Option<&T> {
        let (chunk, at) = self.find(id);
        self.table.chunks.get(chunk)?.get(at.ok()?)
    }

    /// Returns the position of the element with this id.
    ///
    /// # Errors
    /// The position that an element with this id would have, if there is none.
    pub fn position(&self, id: &InstanceId) -> Result<usize, usize> {
        let (chunk, at) = self.find(id);
        let start = self.table.starts.get(chunk).copied().unwrap_or(0);
        at.map(|at| start + at).map_err(|at| start + at)
    }

    /// Compares with `previous`: for each id, what that has and what this has, sorted by id. What both share is skipped,
    /// mostly without being looked at; elements that are equal and not shared are returned too.
    pub fn merge<'a>(&'a self, previous: &'a Self) -> SortedMerge<'a, T> {
        SortedMerge { old: Cursor::new(previous), new: Cursor::new(self) }
    }

    /// The chunk that has or would have this id, and where.
    fn find(&self, id: &InstanceId) -> (usize, Result<usize, usize>) {
        let chunks = &self.table.chunks;
        let chunk = chunks.partition_point(|chunk| chunk[0].id() <= id).saturating_sub(1);
        let at = match chunks.get(chunk) {
            Some(chunk) => chunk.binary_search_by(|element| element.id().cmp(id)),
            None => Err(0),
        };
        (chunk, at)
    }
}

impl<T: HasId + Clone> SortedById<T> {
    /// Adds an element, or replaces the one with the same id, which is returned.
    pub fn insert(&mut self, element: T) -> Option<T> {
        let (at, place) = self.find(element.id());
        let table = Arc::make_mut(&mut self.table);
        let place = match place {
            Ok(place) => {
                let chunk = Arc::make_mut(&mut table.chunks[at]);
                return Some(std::mem::replace(&mut chunk[place], element));
            }
            Err(place) => place,
        };
        self.len += 1;
        let is_last = at + 1 == table.chunks.len();
        match table.chunks.get_mut(at) {
            None => table.chunks.push(Arc::new(vec![element])),
            // Appended in order, chunks become full.
            Some(_) if is_last && place == MAX => table.chunks.push(Arc::new(vec![element])),
            Some(chunk) => {
                let chunk = Arc::make_mut(chunk);
                chunk.insert(place, element);
                if chunk.len() <= MAX {
                    table.starts[at + 1..].iter_mut().for_each(|start| *start += 1);
                    return None;
                }
                let tail = chunk.split_off(MAX / 2);
                table.chunks.insert(at + 1, Arc::new(tail));
            }
        }
        table.number(at);
        None
    }

    /// Removes and returns the element with this id.
    pub fn remove(&mut self, id: &InstanceId) -> Option<T> {
        let (at, place) = self.find(id);
        let place = place.ok()?;
        let table = Arc::make_mut(&mut self.table);
        let chunk = Arc::make_mut(&mut table.chunks[at]);
        let removed = chunk.remove(place);
        self.len -= 1;
        if chunk.len() < MIN {
            let from = table.shrink(at);
            table.number(from);
        } else {
            table.starts[at + 1..].iter_mut().for_each(|start| *start -= 1);
        }
        Some(removed)
    }
}

impl<T: Clone> Table<T> {
    /// Merges a small chunk with a neighbour if there is room, or removes it if it is empty. Returns the first chunk that has
    /// changed.
    fn shrink(&mut self, at: usize) -> usize {
        let left = at.saturating_sub(1);
        for left in [left, at] {
            let Some([first, second]) = self.chunks.get(left..left + 2) else { continue };
            if first.len() + second.len() <= FILL {
                let second = self.chunks.remove(left + 1);
                let first = Arc::make_mut(&mut self.chunks[left]);
                first.extend(Arc::unwrap_or_clone(second));
                return left;
            }
        }
        if self.chunks[at].is_empty() {
            self.chunks.remove(at);
        }
        at
    }
}

impl<T> Table<T> {
    /// Computes the starts again from a chunk on; returns the number of elements.
    fn number(&mut self, from: usize) -> usize {
        self.starts.truncate(from);
        let mut next = match from.checked_sub(1) {
            Some(before) => self.starts[before] + self.chunks[before].len(),
            None => 0,
        };
        for chunk in &self.chunks[from.min(self.chunks.len())..] {
            self.starts.push(next);
            next += chunk.len();
        }
        next
    }
}

impl SortedById<Arc<Instance>> {
    /// Returns what has changed since `previous`, sorted by id.
    ///
    /// Instances that share an [`Arc`] are compared by pointer, all others by content.
    pub fn diff(&self, previous: &Self) -> Vec<Change> {
        self.merge(previous).filter_map(change).collect()
    }
}

impl<T: HasId> FromIterator<T> for SortedById<T> {
    /// Of several elements with the same id the last one counts.
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut elements: Vec<_> = elements.into_iter().collect();
        // Stable, so that among equals the last given comes last and is the one kept.
        elements.sort_by(|a, b| a.id().cmp(b.id()));
        elements.reverse();
        elements.dedup_by(|later, kept| later.id() == kept.id());
        elements.reverse();
        let mut rest = elements.into_iter();
        let mut chunks = Vec::with_capacity(rest.len().div_ceil(FILL));
        while rest.len() > 0 {
            chunks.push(Arc::new(rest.by_ref().take(FILL).collect()));
        }
        Self::of_chunks(chunks)
    }
}

impl<T> Default for SortedById<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for SortedById<T> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table), len: self.len }
    }
}

impl<T: HasId + PartialEq> PartialEq for SortedById<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.merge(other).all(|(a, b)| a == b)
    }
}

impl<T: HasId + Eq> Eq for SortedById<T> {}

impl<T: Hash> Hash for SortedById<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Not by chunk: equal lists may be cut differently.
        state.write_usize(self.len);
        self.iter().for_each(|element| element.hash(state));
    }
}

impl<T: fmt::Debug> fmt::Debug for SortedById<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<T> Index<usize> for SortedById<T> {
    type Output = T;

    /// # Panics
    /// If there is no such position, as for a slice.
    #[inline]
    fn index(&self, index: usize) -> &T {
        // Most lists are short.
        if let [only] = &self.table.chunks[..] {
            return &only[index];
        }
        let chunk = self.table.starts.partition_point(|start| *start <= index).saturating_sub(1);
        &self.table.chunks[chunk][index - self.table.starts[chunk]]
    }
}

impl<'a, T> IntoIterator for &'a SortedById<T> {
    type Item = &'a T;
    type IntoIter = SortedIter<'a, T>;

    fn into_iter(self) -> SortedIter<'a, T> {
        self.iter()
    }
}

type Elements<'a, T> = fn(&'a Arc<Vec<T>>) -> slice::Iter<'a, T>;

/// The iterator of [`SortedById::iter`].
#[derive(Debug, Clone)]
pub struct SortedIter<'a, T> {
    rest: FlatMap<slice::Iter<'a, Arc<Vec<T>>>, slice::Iter<'a, T>, Elements<'a, T>>,
    len: usize,
}

impl<'a, T> Iterator for SortedIter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.rest.next();
        self.len -= usize::from(next.is_some());
        next
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl<T> DoubleEndedIterator for SortedIter<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let next = self.rest.next_back();
        self.len -= usize::from(next.is_some());
        next
    }
}

impl<T> ExactSizeIterator for SortedIter<'_, T> {}

/// The iterator of [`SortedById::merge`]: what the previous list has of an id, and what the new one has.
#[derive(Debug, Clone)]
pub struct SortedMerge<'a, T> {
    old: Cursor<'a, T>,
    new: Cursor<'a, T>,
}

impl<'a, T: HasId> Iterator for SortedMerge<'a, T> {
    type Item = (Option<&'a T>, Option<&'a T>);

    fn next(&mut self) -> Option<Self::Item> {
        let Self { old, new } = self;
        while let (Some(a), Some(b)) = (old.next_chunk(), new.next_chunk())
            && Arc::ptr_eq(a, b)
        {
            old.skip_chunk();
            new.skip_chunk();
        }
        let order = match (old.peek(), new.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.id().cmp(new.id()),
        };
        Some(match order {
            Ordering::Less => (old.elements.next(), None),
            Ordering::Greater => (None, new.elements.next()),
            Ordering::Equal => (old.elements.next(), new.elements.next()),
        })
    }
}

/// A place in a list.
#[derive(Debug, Clone)]
struct Cursor<'a, T> {
    chunks: slice::Iter<'a, Arc<Vec<T>>>,
    /// The chunk that is being read, and what is left of it.
    chunk: Option<&'a Arc<Vec<T>>>,
    elements: slice::Iter<'a, T>,
}

impl<'a, T> Cursor<'a, T> {
    fn new(list: &'a SortedById<T>) -> Self {
        Self { chunks: list.table.chunks.iter(), chunk: None, elements: [].iter() }
    }

    /// Returns the chunk that begins here, if one does.
    fn next_chunk(&self) -> Option<&'a Arc<Vec<T>>> {
        match self.elements.len() {
            0 => self.chunks.as_slice().first(),
            left => self.chunk.filter(|chunk| chunk.len() == left),
        }
    }

    /// Goes to the end of the chunk that begins here.
    fn skip_chunk(&mut self) {
        if self.elements.len() == 0 {
            self.chunks.next();
        }
        self.elements = [].iter();
    }

    fn peek(&mut self) -> Option<&'a T> {
        if self.elements.len() == 0 {
            self.chunk = self.chunks.next();
            self.elements = self.chunk?.iter();
        }
        self.elements.as_slice().first()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// An id with a value.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct Entry(InstanceId, u32);

    impl HasId for Entry {
        fn id(&self) -> &InstanceId {
            &self.0
        }
    }

    fn entry(id: usize, value: u32) -> Entry {
        Entry(format!("{id:05}").parse().unwrap(), value)
    }

    type Model = BTreeMap<InstanceId, u32>;

    fn is_like(list: &SortedById<Entry>, model: &Model) {
        let expected: Vec<_> = model.iter().map(|(id, value)| Entry(id.clone(), *value)).collect();
        assert_eq!(list.iter().cloned().collect::<Vec<_>>(), expected);
        assert!(list.iter().rev().eq(expected.iter().rev()));
        assert_eq!(
            (list.len(), list.iter().len(), list.is_empty()),
            (expected.len(), expected.len(), expected.is_empty())
        );
        for (index, entry) in expected.iter().enumerate() {
            assert_eq!((list.at(index), &list[index]), (Some(entry), entry));
            assert_eq!((list.get(&entry.0), list.position(&entry.0)), (Some(entry), Ok(index)));
        }
        assert_eq!(list.at(expected.len()), None);
        assert!(list.table.chunks.iter().all(|chunk| (1..=MAX).contains(&chunk.len())));
        assert!(list.table.chunks.len() <= 2 + 2 * list.len() / MIN, "small chunks are merged");
    }

    fn naive(old: &Model, new: &Model) -> Vec<(Option<u32>, Option<u32>)> {
        let ids: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let pairs = ids.into_iter().map(|id| (old.get(id).copied(), new.get(id).copied()));
        pairs.filter(|(old, new)| old != new).collect()
    }

    fn diff(old: &SortedById<Entry>, new: &SortedById<Entry>) -> Vec<(Option<u32>, Option<u32>)> {
        let value = |entry: Option<&Entry>| entry.map(|entry| entry.1);
        new.merge(old).map(|(old, new)| (value(old), value(new))).filter(|(old, new)| old != new).collect()
    }

    #[test]
    fn random_changes_give_what_a_btree_map_has_and_versions_stay_as_they_were() {
        for seed in 0..8 {
            let mut random = fastrand::Rng::with_seed(seed);
            let ids = [40, 300, 1_000, 3_000][usize::try_from(seed).unwrap() % 4];
            let (mut list, mut model) = (SortedById::new(), Model::new());
            let mut versions = vec![(list.clone(), model.clone())];
            for round in 0..40 {
                // Growing, then shrinking, in bursts of any size.
                let grows = round % 20 < 12;
                for _ in 0..random.usize(1..ids / 2) {
                    let entry = entry(random.usize(..ids), random.u32(..3));
                    if random.u8(..10) < if grows { 8 } else { 2 } {
                        assert_eq!(
                            list.insert(entry.clone()).map(|old| old.1),
                            model.insert(entry.0, entry.1)
                        );
                    } else {
                        assert_eq!(list.remove(&entry.0).map(|old| old.1), model.remove(&entry.0));
                    }
                }
                is_like(&list, &model);
                let (old, old_model) = &versions[random.usize(..versions.len())];
                is_like(old, old_model);
                assert_eq!(diff(old, &list), naive(old_model, &model), "seed {seed}, round {round}");
                assert_eq!(diff(&list, old), naive(&model, old_model));
                assert_eq!(list == *old, model == *old_model);
                let rebuilt: SortedById<_> = list.iter().cloned().collect();
                assert_eq!((diff(&rebuilt, &list), rebuilt == list), (vec![], true), "cut differently");
                versions.push((list.clone(), model.clone()));
            }
        }
    }

    #[test]
    fn of_equal_ids_the_last_counts() {
        let list: SortedById<_> = [entry(2, 0), entry(1, 1), entry(2, 2), entry(1, 3)].into_iter().collect();
        assert_eq!(list.iter().map(|entry| entry.1).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(list.position(&entry(0, 0).0), Err(0));
        assert_eq!(list.position(&entry(3, 0).0), Err(2));
        assert_eq!(SortedById::<Entry>::new().position(&entry(3, 0).0), Err(0));
    }

    #[test]
    fn a_comparison_looks_only_at_chunks_that_differ() {
        let before: SortedById<_> = (0..100_000).map(|id| entry(id, 0)).collect();
        assert_eq!(before.merge(&before.clone()).count(), 0);
        let mut after = before.clone();
        for id in [5, 50_000, 99_999] {
            after.remove(&entry(id, 0).0);
        }
        after.insert(entry(70_000, 1));
        assert!(after.merge(&before).count() <= 4 * MAX);
        assert_eq!(diff(&before, &after).len(), 4);
        let shared =
            |chunk: &&Arc<Vec<Entry>>| before.table.chunks.iter().any(|other| Arc::ptr_eq(chunk, other));
        assert_eq!(after.table.chunks.iter().filter(shared).count(), before.table.chunks.len() - 4);
    }

    #[test]
    fn elements_appended_in_order_fill_their_chunks() {
        let mut list = SortedById::new();
        (0..10 * MAX).for_each(|id| drop(list.insert(entry(id, 0))));
        assert_eq!(list.table.chunks.len(), 10);
        (0..10 * MAX - 3).for_each(|id| drop(list.remove(&entry(id, 0).0)));
        assert_eq!((list.len(), list.table.chunks.len()), (3, 1));
    }

    /// How often a task is polled until it has ended.
    fn polls(task: impl Future<Output = ()> + Send + 'static) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut task, mut polls) = (Box::pin(task), 0);
            let counted = std::future::poll_fn(move |cx| {
                polls += 1;
                task.as_mut().poll(cx).map(|()| polls)
            });
            tokio::spawn(counted).await.unwrap()
        })
    }

    #[test]
    fn a_discarded_list_is_dropped_a_few_elements_at_a_time() {
        let list = SortedById::from_iter((0..10_000).map(|id| entry(id, 1)));
        let mut shared = list.clone();
        shared.remove(&list[9_000].0);
        assert_eq!(polls(list.discard()), 1, "what is shared is not looked at");
        let polls = polls(shared.discard());
        assert!(polls > 5, "{polls} polls");
    }
}
