//! The search: hypotheses, their extensions, and the beam.
//!
//! The beam is monotone (Lemons et al. 2022, <https://arxiv.org/abs/2204.02929>): place `b` of the beam takes the best
//! extension of the places up to `b` that no earlier place has. A wider beam contains every narrower one, so its best
//! filling is never worse.

use std::collections::HashSet;

use crate::lm::TokenScore;

/// Some masks with their tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hypothesis {
    /// For each mask its token, once it has one.
    pub tokens: Vec<Option<u32>>,
    pub log_score: f64,
}

/// The tokens for one mask of a hypothesis, most probable first.
pub struct Extensions {
    pub mask: usize,
    pub tokens: Vec<TokenScore>,
}

impl Hypothesis {
    /// The masks without a token, ascending.
    pub fn unfilled(&self) -> impl Iterator<Item = usize> {
        let masks = self.tokens.iter().enumerate();
        masks.filter(|(_, token)| token.is_none()).map(|(mask, _)| mask)
    }

    fn extended(&self, mask: usize, score: TokenScore) -> Self {
        let mut extended = self.clone();
        extended.tokens[mask] = Some(score.token);
        extended.log_score += f64::from(score.log_prob);
        extended
    }
}

/// The monotone beam of `width` places after `beam`, whose hypotheses have these extensions.
pub fn next_beam(beam: &[Hypothesis], extensions: &[Extensions], width: usize) -> Vec<Hypothesis> {
    let mut next: Vec<Hypothesis> = Vec::with_capacity(width);
    // For each hypothesis, its best extension that is not taken.
    let mut heads = vec![0; beam.len()];
    for place in 1..=width {
        loop {
            let open = (0..beam.len().min(place)).filter_map(|of| {
                let score = extensions[of].tokens.get(heads[of])?;
                Some((of, beam[of].log_score + f64::from(score.log_prob)))
            });
            let best = open.fold(None, |best: Option<(usize, f64)>, (of, score)| match best {
                Some((_, largest)) if largest >= score => best,
                _ => Some((of, score)),
            });
            let Some((of, _)) = best else {
                break;
            };
            let extension = &extensions[of];
            let extended = beam[of].extended(extension.mask, extension.tokens[heads[of]]);
            heads[of] += 1;
            // Another order may have filled the same masks with the same tokens.
            if !next.iter().any(|other| other.tokens == extended.tokens) {
                next.push(extended);
                break;
            }
        }
    }
    next
}

/// The best extensions of complete hypotheses, best first.
pub fn best_fillings(beam: &[Hypothesis], extensions: &[Extensions], count: usize) -> Vec<Hypothesis> {
    let of_beam = beam.iter().zip(extensions).enumerate();
    let mut all: Vec<(f64, usize, usize)> = of_beam
        .flat_map(|(of, (hypothesis, extension))| {
            let tokens = extension.tokens.iter().enumerate();
            tokens.map(move |(rank, score)| (hypothesis.log_score + f64::from(score.log_prob), of, rank))
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut best: Vec<Hypothesis> = Vec::with_capacity(count);
    let mut known = HashSet::new();
    for (_, of, rank) in all {
        let filling = beam[of].extended(extensions[of].mask, extensions[of].tokens[rank]);
        if known.insert(filling.tokens.clone()) {
            best.push(filling);
            if best.len() == count {
                break;
            }
        }
    }
    best
}
