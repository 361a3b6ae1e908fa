//! The order of sequences: fair queueing by cost, in two stages.
//!
//! Sequences of similar cost, up to a factor of two, are a class. Classes share the model in equal parts: a class begins
//! where its last sequence ended in virtual time, and the class whose next sequence would end first is next. So a short
//! text waits neither for long ones nor for many of them, and long ones get their part beside any number of short ones.
//!
//! Within a class requests take turns. Virtual time moves on with the cost that is served, divided by the number of
//! requests that wait: it is the cost that each of them would have been served if they shared the class in equal parts. A
//! request begins at the virtual time of its arrival, each of its sequences where the one before it ends, and the sequence
//! with the earliest end is next.
//!
//! A. Demers, S. Keshav, S. Shenker: Analysis and Simulation of a Fair Queueing Algorithm, SIGCOMM 1989.

use std::collections::{BTreeMap, VecDeque};

use super::Share;

/// Sequences of up to this many tokens cost alike, so that short texts keep the order of their arrival.
const SHARE_TOKENS: usize = 32;

/// Parts of a share in which virtual time is counted.
const PARTS: u64 = 1024;

/// Sequences of requests in the order of their turns.
pub struct Turns<E> {
    /// By the logarithm of the cost of the next sequence of each request.
    classes: BTreeMap<u32, Class<E>>,
    /// Of the classes: the begin of the sequence that was taken last.
    virtual_time: u64,
    turns: u64,
}

/// Requests whose next sequences have similar costs.
struct Class<E> {
    /// By the turn of the next sequence of each. None is empty.
    requests: BTreeMap<Turn, VecDeque<E>>,
    /// Of the requests.
    virtual_time: u64,
    /// The begin of its next sequence in the virtual time of the classes.
    begin: u64,
}

/// Place of a sequence in the order of its class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// Its end in virtual time.
    end: u64,
    /// Tells turns of the same end apart: first come, first served.
    number: u64,
}

impl<E> Default for Turns<E> {
    fn default() -> Self {
        Self {
            classes: BTreeMap::new(),
            virtual_time: 0,
            turns: 0,
        }
    }
}

impl<E> Default for Class<E> {
    fn default() -> Self {
        Self {
            requests: BTreeMap::new(),
            virtual_time: 0,
            begin: 0,
        }
    }
}

impl<E: Share> Turns<E> {
    /// Adds sequences of one request, behind those of the same request that wait.
    pub fn push(&mut self, entries: Vec<E>) {
        let Some(first) = entries.first() else { return };
        let request = first.request();
        let is_same = |other: &&mut VecDeque<E>| other.front().is_some_and(|entry| entry.request() == request);
        let mut requests = self.classes.values_mut().flat_map(|class| class.requests.values_mut());
        match requests.find(is_same) {
            Some(waiting) => waiting.extend(entries),
            None => self.insert(None, entries.into()),
        }
    }

    /// Adds a request. Its next sequence begins at `begin` in the virtual time of the class `begin` names, else now.
    fn insert(&mut self, begin: Option<(u32, u64)>, entries: VecDeque<E>) {
        let Some(first) = entries.front() else { return };
        let index = class(first);
        let class = self.classes.entry(index).or_default();
        if class.requests.is_empty() {
            class.begin = class.begin.max(self.virtual_time);
        }
        let begin = match begin {
            Some((of, begin)) if of == index => begin,
            _ => class.virtual_time,
        };
        let turn = Turn {
            end: begin + cost(first),
            number: self.turns,
        };
        self.turns += 1;
        class.requests.insert(turn, entries);
    }

    /// The class that is next, and its next sequence.
    fn next(&self) -> Option<(u32, &E)> {
        let waiting = self.classes.iter().filter_map(|(&index, class)| {
            let entry = class.requests.first_key_value()?.1.front()?;
            Some((class.begin + cost(entry), index, entry))
        });
        let next = waiting.min_by_key(|&(end, index, _)| (end, index));
        next.map(|(_, index, entry)| (index, entry))
    }

    /// The sequence that is next.
    pub fn front(&self) -> Option<&E> {
        self.next().map(|(_, entry)| entry)
    }

    /// Takes the sequence that is next.
    pub fn pop(&mut self) -> Option<E> {
        let (index, _) = self.next()?;
        let class = self.classes.get_mut(&index)?;
        let waiting = class.requests.len() as u64;
        let (turn, mut entries) = class.requests.pop_first()?;
        let entry = entries.pop_front()?;
        class.virtual_time += cost(&entry) / waiting;
        self.virtual_time = self.virtual_time.max(class.begin);
        class.begin += cost(&entry);
        self.insert(Some((index, turn.end)), entries);
        Some(entry)
    }

    /// Keeps the sequences of which `is_kept` says so. The others of their request keep its turn.
    pub fn retain(&mut self, is_kept: impl Fn(&E) -> bool) {
        for class in self.classes.values_mut() {
            class.requests.retain(|_, entries| {
                entries.retain(&is_kept);
                !entries.is_empty()
            });
        }
    }

    fn requests(&self) -> impl Iterator<Item = &VecDeque<E>> {
        self.classes.values().flat_map(|class| class.requests.values())
    }

    pub fn entries(&self) -> impl Iterator<Item = &E> {
        self.requests().flatten()
    }

    /// The first sequence of each request.
    pub fn first_entries(&self) -> impl Iterator<Item = &E> {
        self.requests().filter_map(VecDeque::front)
    }
}

/// Shares, at least one.
fn shares(entry: &impl Share) -> u64 {
    (entry.cost().div_ceil(SHARE_TOKENS) as u64).max(1)
}

fn cost(entry: &impl Share) -> u64 {
    shares(entry) * PARTS
}

fn class(entry: &impl Share) -> u32 {
    shares(entry).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Sequence {
        request: u64,
        cost: usize,
    }

    impl Share for Sequence {
        fn request(&self) -> u64 {
            self.request
        }

        fn cost(&self) -> usize {
            self.cost
        }
    }

    fn list(request: u64, costs: &[usize]) -> Vec<Sequence> {
        costs.iter().map(|&cost| Sequence { request, cost }).collect()
    }

    fn next(turns: &mut Turns<Sequence>) -> u64 {
        turns.pop().unwrap().request
    }

    #[test]
    fn requests_of_one_cost_take_turns() {
        let mut turns = Turns::default();
        turns.push(list(0, &[5; 4]));
        turns.push(list(1, &[5]));
        turns.push(list(2, &[5; 2]));
        let order: Vec<u64> = (0..7).map(|_| next(&mut turns)).collect();
        assert_eq!(order, [0, 1, 2, 0, 2, 0, 0]);
        assert!(turns.pop().is_none() && turns.front().is_none());
    }

    #[test]
    fn short_texts_keep_the_order_of_their_arrival() {
        let mut turns = Turns::default();
        for (request, cost) in [(0, 20), (1, 3), (2, 32), (3, 33), (4, 1)] {
            turns.push(list(request, &[cost]));
        }
        let order: Vec<u64> = (0..5).map(|_| next(&mut turns)).collect();
        // The longer one has the model for itself when two short ones have had it.
        assert_eq!(order, [0, 1, 3, 2, 4]);
    }

    #[test]
    fn a_cheap_request_overtakes_expensive_ones_also_those_that_have_waited() {
        let mut turns = Turns::default();
        for request in 0..8 {
            turns.push(list(request, &[1000]));
        }
        assert_eq!(next(&mut turns), 0);
        turns.push(list(9, &[10]));
        assert_eq!(next(&mut turns), 9);
        assert_eq!(next(&mut turns), 1);
    }

    #[test]
    fn cheap_requests_do_not_starve_expensive_ones() {
        let mut turns = Turns::default();
        turns.push(list(0, &[40 * SHARE_TOKENS]));
        let cheap = (1..).map(|request| {
            turns.push(list(request, &[10]));
            next(&mut turns)
        });
        let served = cheap.take_while(|&request| request != 0).count();
        // Each gets half of the model.
        assert!((38..=41).contains(&served), "{served}");
    }

    #[test]
    fn a_list_shares_with_a_stream_of_single_texts() {
        let mut turns = Turns::default();
        turns.push(list(0, &[10; 20]));
        let mut served = Vec::new();
        for request in 1..=20 {
            turns.push(list(request, &[10]));
            served.push(next(&mut turns));
            served.push(next(&mut turns));
        }
        let of_list = served.iter().filter(|&&request| request == 0).count();
        assert_eq!(of_list, 20);
        assert!(turns.pop().is_none());
    }

    /// Costs of a burst of equal requests, of which many are served when a cheap one arrives.
    #[test]
    fn a_cheap_request_overtakes_the_rest_of_a_burst() {
        for (burst, served) in [(64, 0), (64, 41), (64, 63), (500, 400)] {
            let mut turns = Turns::default();
            for request in 0..burst {
                turns.push(list(request, &[500]));
            }
            (0..served).for_each(|_| assert!(turns.pop().is_some()));
            turns.push(list(burst, &[10]));
            assert_eq!(next(&mut turns), burst, "{served} of {burst}");
        }
    }

    #[test]
    fn a_class_that_was_idle_has_no_claim_to_the_past() {
        let mut turns = Turns::default();
        for request in 0..100 {
            turns.push(list(request, &[10]));
        }
        (0..50).for_each(|_| assert!(turns.pop().is_some()));
        for request in 100..150 {
            turns.push(list(request, &[40]));
        }
        let order: Vec<u64> = (0..60).map(|_| next(&mut turns)).collect();
        let long = order.iter().filter(|&&request| request >= 100).count();
        // They cost two shares each, and get half of the model.
        assert!((19..=21).contains(&long), "{long}");
    }
}
