//! The order of sequences: weighted fair queueing over requests.
//!
//! Virtual time moves on with the cost that is served, divided by the number of requests that wait: it is the cost that
//! each of them would have been served if they shared the model in equal parts. A request begins at the virtual time of
//! its arrival, each of its sequences where the one before it ends, and the sequence with the earliest end is next. A
//! cheap request thus overtakes expensive ones, which wait no longer than if the model were shared, but for one batch.
//! A. Demers, S. Keshav, S. Shenker: Analysis and Simulation of a Fair Queueing Algorithm, SIGCOMM 1989.

use std::collections::{BTreeMap, VecDeque};

use super::Share;

/// Sequences of up to this many tokens cost alike, so that short texts keep the order of their arrival.
const SHARE_TOKENS: usize = 32;

/// Parts of a share in which virtual time is counted.
const PARTS: u64 = 1024;

/// Sequences of requests in the order of their turns.
pub struct Turns<E> {
    /// By the turn of the first sequence of each. None is empty.
    requests: BTreeMap<Turn, VecDeque<E>>,
    virtual_time: u64,
    turns: u64,
}

/// Place of a sequence in the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// Its end in virtual time.
    end: u64,
    /// Orders turns of the same end: first come, first served.
    number: u64,
}

impl<E> Default for Turns<E> {
    fn default() -> Self {
        Self {
            requests: BTreeMap::new(),
            virtual_time: 0,
            turns: 0,
        }
    }
}

impl<E: Share> Turns<E> {
    /// Adds sequences of one request, behind those of the same request that wait.
    pub fn push(&mut self, entries: Vec<E>) {
        let Some(first) = entries.first() else { return };
        let request = first.request();
        let is_same = |other: &&mut VecDeque<E>| other.front().is_some_and(|entry| entry.request() == request);
        match self.requests.values_mut().find(is_same) {
            Some(waiting) => waiting.extend(entries),
            None => self.insert(self.virtual_time, entries.into()),
        }
    }

    fn insert(&mut self, begin: u64, entries: VecDeque<E>) {
        let Some(first) = entries.front() else { return };
        let turn = Turn {
            end: begin + cost(first),
            number: self.turns,
        };
        self.turns += 1;
        self.requests.insert(turn, entries);
    }

    /// The sequence that is next.
    pub fn front(&self) -> Option<&E> {
        self.requests.first_key_value()?.1.front()
    }

    /// Takes the sequence that is next.
    pub fn pop(&mut self) -> Option<E> {
        let waiting = self.requests.len() as u64;
        let (turn, mut entries) = self.requests.pop_first()?;
        let entry = entries.pop_front()?;
        self.virtual_time += cost(&entry) / waiting;
        self.insert(turn.end, entries);
        Some(entry)
    }

    /// Keeps the sequences of which `is_kept` says so. The others of their request keep its turn.
    pub fn retain(&mut self, is_kept: impl Fn(&E) -> bool) {
        self.requests.retain(|_, entries| {
            entries.retain(&is_kept);
            !entries.is_empty()
        });
    }

    pub fn entries(&self) -> impl Iterator<Item = &E> {
        self.requests.values().flatten()
    }

    /// The first sequence of each request.
    pub fn first_entries(&self) -> impl Iterator<Item = &E> {
        self.requests.values().filter_map(VecDeque::front)
    }
}

fn cost(entry: &impl Share) -> u64 {
    entry.cost().div_ceil(SHARE_TOKENS) as u64 * PARTS
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
        assert_eq!(order, [0, 1, 2, 4, 3]);
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
        // Each gets half of the model until then.
        assert!((60..100).contains(&served), "{served}");
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
}
