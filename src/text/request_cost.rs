//! The cost of tokenizing all texts of a request, bounded before the first is tokenized.

use tokenizers::{OffsetReferential, OffsetType};

use super::{LengthRule, Tokenizer};
use crate::work::{self, TooMuchWork, WorkBudget};

impl Tokenizer {
    /// Refuses texts that together need more than `lookups_max` look-ups, before any of them is made. Texts that are
    /// too long by themselves are not counted: [`encode`](Self::encode) refuses them.
    ///
    /// # Errors
    /// [`TooMuchWork`].
    pub async fn refuse_too_much_work(
        &self,
        texts: impl Iterator<Item = &str> + Clone,
        rule: LengthRule,
        lookups_max: u64,
    ) -> Result<(), TooMuchWork> {
        let mut estimate = 0_u64;
        for text in texts.clone() {
            estimate = estimate.saturating_add(self.word_cost.estimate(text));
            work::checkpoint().await;
        }
        // Nearly every request ends here, after nanoseconds for each byte.
        if estimate <= lookups_max {
            return Ok(());
        }
        let mut budget = WorkBudget::new(lookups_max);
        for text in texts {
            if self.refuse_far_too_long(text, rule).await.is_ok() {
                self.spend_on(text, &mut budget)?;
            }
            work::checkpoint().await;
        }
        Ok(())
    }

    /// Takes the look-ups for `text`.
    fn spend_on(&self, text: &str, budget: &mut WorkBudget) -> Result<(), TooMuchWork> {
        budget.spend(1)?;
        let Ok(words) = self.words(text) else {
            return Ok(());
        };
        for (word, _, added) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if added.is_none()
                && let Ok(lookups) = self.word_cost.lookups(word, &self.tokenizer)
            {
                budget.spend(lookups)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::PretrainedModel;

    #[test]
    fn expensive_texts_are_refused_together_and_ordinary_ones_are_not_counted() {
        let tokenizer = Tokenizer::new(PretrainedModel::embedded().unwrap().tokenizer, 512);
        let refused = |texts: &[&str], lookups_max| {
            work::run_to_end(tokenizer.refuse_too_much_work(texts.iter().copied(), LengthRule::default(), lookups_max))
                .is_err()
        };
        // 4,900 look-ups each.
        let word = format!("{}\u{2603}", "x".repeat(98));
        let two = format!("{word} {word}");
        assert!(!refused(&[&two], 9_900));
        assert!(refused(&[&two], 9_700));
        assert!(refused(&[&word, &word], 9_700));
        // Many look-ups by the first estimate, few by the vocabulary.
        let known = "understanding ".repeat(200);
        assert!(tokenizer.word_cost.estimate(&known) > 10_000);
        assert!(!refused(&[&known], 1_000));
        // Too long by itself: refused when it is encoded.
        assert!(!refused(&[&two.repeat(1_000)], 9_700));
    }
}
