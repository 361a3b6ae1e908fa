//! The order of slices: start-time fair queueing, so that every request gets the same share of the threads.
//!
//! Each request has a start tag, in time of work. A new one begins at the virtual time, a slice moves its tag on by the
//! time that the slice took, and the lowest tag is next. Virtual time moves on by that time divided by the number of
//! requests. P. Goyal, H. Vin, H. Cheng: Start-time Fair Queuing, SIGCOMM 1996.

use std::collections::BTreeMap;
use std::time::Duration;

/// Place of a request in the order: its start tag, then its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    start: Duration,
    pub id: u64,
}

/// Items in the order of their places.
pub struct FairQueue<T> {
    ready: BTreeMap<Place, T>,
    virtual_time: Duration,
    next_id: u64,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            ready: BTreeMap::new(),
            virtual_time: Duration::ZERO,
            next_id: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// Adds an item that has done no work yet; returns its id.
    pub fn push(&mut self, item: T) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let start = self.virtual_time;
        self.ready.insert(Place { start, id }, item);
        id
    }

    /// Takes the item that is next.
    pub fn pop(&mut self) -> Option<(Place, T)> {
        let (place, item) = self.ready.pop_first()?;
        self.virtual_time = self.virtual_time.max(place.start);
        Some((place, item))
    }

    /// Notes a slice of `took` while `requests` shared the threads.
    pub fn worked(&mut self, took: Duration, requests: usize) {
        let requests = u32::try_from(requests.max(1)).unwrap_or(u32::MAX);
        self.virtual_time += took / requests;
    }

    /// Puts an item back after a slice of `took`.
    pub fn put_back(&mut self, place: Place, took: Duration, item: T) {
        let start = place.start + took;
        self.ready.insert(Place { start, ..place }, item);
    }

    /// Takes the item `id` out.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        let place = *self.ready.keys().find(|place| place.id == id)?;
        self.ready.remove(&place)
    }

    pub fn take_all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.ready).into_values().collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.ready.values()
    }

    pub fn len(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: Duration = Duration::from_millis(1);

    /// Runs one slice of the next item.
    fn slice(queue: &mut FairQueue<&'static str>, left: &mut [(&'static str, u32)]) -> &'static str {
        let (place, name) = queue.pop().unwrap();
        queue.worked(SLICE, queue.len() + 1);
        let left = &mut left.iter_mut().find(|(other, _)| *other == name).unwrap().1;
        *left -= 1;
        if *left > 0 {
            queue.put_back(place, SLICE, name);
        }
        name
    }

    #[test]
    fn a_cheap_item_runs_before_the_rest_of_expensive_ones() {
        let mut queue = FairQueue::default();
        let mut left = [("a", 100), ("b", 100), ("cheap", 1)];
        queue.push("a");
        queue.push("b");
        for _ in 0..51 {
            slice(&mut queue, &mut left);
        }
        queue.push("cheap");
        let next = [slice(&mut queue, &mut left), slice(&mut queue, &mut left)];
        assert!(next.contains(&"cheap"), "{next:?}");
    }

    #[test]
    fn expensive_items_share_alike_and_a_stream_of_cheap_ones_does_not_starve_them() {
        let mut queue = FairQueue::default();
        let mut left = [("a", 1000), ("b", 1000), ("cheap", 1000)];
        queue.push("a");
        queue.push("b");
        let mut runs = std::collections::HashMap::<_, u32>::new();
        for _ in 0..600 {
            // Each is a request of its own, of one slice.
            if !queue.iter().any(|name| *name == "cheap") {
                queue.push("cheap");
            }
            let (place, name) = queue.pop().unwrap();
            queue.worked(SLICE, queue.len() + 1);
            *runs.entry(name).or_default() += 1;
            left.iter_mut().find(|(other, _)| *other == name).unwrap().1 -= 1;
            if name != "cheap" {
                queue.put_back(place, SLICE, name);
            }
        }
        assert!(runs["a"].abs_diff(runs["b"]) <= 1, "{runs:?}");
        assert!(runs["a"] > 100, "{runs:?}");
    }

    #[test]
    fn an_item_can_be_taken_out() {
        let mut queue = FairQueue::default();
        let a = queue.push("a");
        queue.push("b");
        assert_eq!(queue.remove(a), Some("a"));
        assert_eq!(queue.remove(a), None);
        assert_eq!(queue.pop().unwrap().1, "b");
        assert_eq!(queue.len(), 0);
    }
}
