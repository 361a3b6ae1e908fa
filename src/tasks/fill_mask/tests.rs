//! The contract of fill-mask over the demo model's tokenizer, with scores made here.

use super::*;
use crate::lm::{PretrainedModel, Select, TokenScore};
use crate::tasks::TaskModel;
use crate::tasks::planning::LOOKUPS_MAX;
use crate::text::{EncodeError, Truncation, TruncationError};
use crate::work::{self, WorkBudget};

const TOKENS_MAX: usize = 64;
const TEXTS_MAX: usize = 8;
const VOCAB_SIZE: usize = 12_288;

fn fill_mask() -> TaskModel {
    let model = PretrainedModel::embedded().unwrap();
    TaskModel::new(model.tokenizer, &model.info, TOKENS_MAX)
}

fn request(texts: &[&str], top_k: Option<usize>, targets: Option<&[&str]>) -> Request {
    let owned = |strings: &[&str]| strings.iter().map(|&string| string.to_owned()).collect();
    Request {
        texts: owned(texts),
        parameters: Parameters {
            top_k,
            targets: targets.map(owned),
            ..Parameters::default()
        },
    }
}

fn plan(texts: &[&str], top_k: Option<usize>, targets: Option<&[&str]>) -> Result<Plan, InputError> {
    fill_mask().plan(&request(texts, top_k, targets), TEXTS_MAX)
}

fn token(word: &str) -> u32 {
    let mut budget = WorkBudget::new(LOOKUPS_MAX);
    let tokenizer = fill_mask().tokenizer;
    work::run_to_end(tokenizer.first_token(word, &mut budget))
        .unwrap()
        .unwrap()
}

fn score(word: &str, probability: f32) -> TokenScore {
    TokenScore {
        token: token(word),
        log_prob: probability.ln(),
    }
}

fn strings(predictions: &[Prediction]) -> Vec<&str> {
    predictions
        .iter()
        .map(|prediction| prediction.token_str.as_str())
        .collect()
}

#[test]
fn a_text_becomes_a_sequence_that_reads_its_masks() {
    let plan = plan(&["The [MASK] and the [MASK]."], None, None).unwrap();
    let [sequence] = &plan.sequences[..] else {
        panic!("{plan:?}")
    };
    // [CLS] the [MASK] and the [MASK] . [SEP]
    assert_eq!(sequence.readout.positions, [2, 5]);
    assert_eq!(sequence.readout.select, Select::TopK(TOP_K_DEFAULT));
    assert_eq!((plan.tokens(), plan.predictions()), (8, 10));
}

#[test]
fn each_text_of_a_list_is_a_sequence_in_order() {
    let plan = plan(&["[MASK]", "the [MASK] cat"], Some(3), None).unwrap();
    let lengths: Vec<usize> = plan.sequences.iter().map(|sequence| sequence.token_ids.len()).collect();
    assert_eq!(lengths, [3, 5]);
    assert_eq!((plan.tokens(), plan.predictions()), (8, 6));
}

#[test]
fn more_texts_than_allowed_are_refused_before_any_is_read() {
    let texts = [""; TEXTS_MAX + 1];
    let error = plan(&texts, Some(0), None).unwrap_err();
    assert_eq!(
        error,
        InputError::TooManyTexts {
            texts: 9,
            max: TEXTS_MAX
        }
    );
    assert!(plan(&["[MASK]"; TEXTS_MAX], None, None).is_ok());
}

#[test]
fn a_text_without_a_mask_or_without_anything_is_refused() {
    for text in ["the cat", "[mask]", "[ MASK ]"] {
        let error = plan(&[text], None, None).unwrap_err();
        assert!(
            matches!(&error, InputError::NoMask { mask_token } if mask_token == "[MASK]"),
            "{text}: {error}"
        );
    }
    for text in ["", " ", "\n\t\u{a0}"] {
        let error = plan(&[text], None, None).unwrap_err();
        assert!(matches!(error, InputError::Empty { .. }), "{text:?}: {error}");
    }
}

#[test]
fn a_text_beyond_the_token_limit_is_refused() {
    let text = format!("[MASK]{}", " the".repeat(TOKENS_MAX));
    let error = plan(&[&text], None, None).unwrap_err();
    let expected = EncodeError::TooManyTokens {
        tokens: TOKENS_MAX + 3,
        max: TOKENS_MAX,
    };
    assert_eq!(error, InputError::Encode(expected));
}

#[test]
fn an_error_in_a_list_names_the_index_of_the_text() {
    let long = format!("[MASK]{}", " the".repeat(TOKENS_MAX));
    for (texts, expected_index, cause) in [
        (["no mask", "[MASK]", "[MASK]"], 0, "The text has no mask"),
        (["[MASK]", "no mask", ""], 1, "The text has no mask"),
        (["[MASK]", "[MASK]", " "], 2, "The text is empty"),
        (["[MASK]", long.as_str(), "[MASK]"], 1, "tokens"),
    ] {
        let error = plan(&texts, None, None).unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, InputError::InList { index, .. } if index == expected_index),
            "{message}"
        );
        let named = format!("index {expected_index}, counted from 0: ");
        assert!(message.contains(&named) && message.contains(cause), "{message}");
    }
    // A list of one text, and an error of the whole answer.
    assert!(matches!(plan(&["the"], None, None), Err(InputError::NoMask { .. })));
    let masks = "[MASK] ".repeat(40);
    let error = plan(&[&masks, &masks], Some(833), None).unwrap_err();
    assert!(matches!(error, InputError::TooManyPredictions { .. }), "{error}");
}

#[test]
fn top_k_beyond_the_vocabulary_means_all_targets() {
    for top_k in [2, 3, VOCAB_SIZE + 1, usize::MAX] {
        let plan = plan(&["[MASK]"], Some(top_k), Some(&["cat", "dog"])).unwrap();
        assert_eq!(plan.predictions(), 2, "{top_k}");
    }
    assert!(plan(&["[MASK]"], Some(0), Some(&["cat"])).is_err());
}

#[test]
fn top_k_is_between_one_and_the_vocabulary() {
    for top_k in [1, 5, VOCAB_SIZE] {
        let plan = plan(&["[MASK]"], Some(top_k), None).unwrap();
        assert_eq!(plan.sequences[0].readout.select, Select::TopK(top_k));
    }
    for top_k in [0, VOCAB_SIZE + 1, usize::MAX] {
        let error = plan(&["[MASK]"], Some(top_k), None).unwrap_err();
        assert_eq!(
            error,
            InputError::TopK {
                top_k,
                vocab_size: VOCAB_SIZE
            }
        );
    }
}

#[test]
fn the_default_top_k_fits_a_small_vocabulary() {
    let mut fill_mask = fill_mask();
    fill_mask.vocab_size = 3;
    let plan = fill_mask.plan(&request(&["[MASK]"], None, None), 1).unwrap();
    assert_eq!(plan.sequences[0].readout.select, Select::TopK(3));
}

#[test]
fn targets_are_token_ids_without_duplicates() {
    let targets = ["Paris", "london", "paris", "London"];
    let plan = plan(&["[MASK]"], None, Some(&targets)).unwrap();
    let mut expected = vec![token("paris"), token("london")];
    expected.sort_unstable();
    assert_eq!(
        plan.sequences[0].readout.select,
        Select::Tokens(expected.into()),
        "case is the tokenizer's matter"
    );
    // Fewer targets than the default top_k.
    assert_eq!(plan.predictions(), 2);
}

#[test]
fn a_target_outside_the_vocabulary_stands_for_its_first_piece() {
    let first_piece = plan(&["unthinkableness [MASK]"], None, None).unwrap().sequences[0].token_ids[1];
    let plan = plan(&["[MASK]"], None, Some(&["unthinkableness"])).unwrap();
    assert_eq!(plan.sequences[0].readout.select, Select::Tokens([first_piece].into()));
}

#[test]
fn targets_that_the_tokenizer_drops_are_skipped_until_none_is_left() {
    let one_left = plan(&["[MASK]"], None, Some(&[" ", "cat", ""])).unwrap();
    assert_eq!(
        one_left.sequences[0].readout.select,
        Select::Tokens([token("cat")].into())
    );
    for targets in [&[][..], &["", " \t"]] {
        let error = plan(&["[MASK]"], None, Some(targets)).unwrap_err();
        assert_eq!(error, InputError::NoTarget, "{targets:?}");
    }
}

#[test]
fn targets_are_bounded_in_number_and_length() {
    let many = vec!["cat"; TARGETS_MAX + 1];
    assert!(plan(&["[MASK]"], None, Some(&many[1..])).is_ok());
    let error = plan(&["[MASK]"], None, Some(&many)).unwrap_err();
    assert!(
        matches!(error, InputError::TooManyTargets { targets: 10_001, .. }),
        "{error}"
    );

    let long = "x".repeat(TARGET_BYTES_MAX + 1);
    assert!(plan(&["[MASK]"], None, Some(&[&long[1..]])).is_ok());
    let error = plan(&["[MASK]"], None, Some(&["cat", &long])).unwrap_err();
    assert!(matches!(error, InputError::LongTarget { bytes: 1001, .. }), "{error}");
}

fn with_length(text: &str, length: LengthRule) -> Result<Plan, InputError> {
    planned(&fill_mask(), text, length)
}

fn planned(fill_mask: &TaskModel, text: &str, length: LengthRule) -> Result<Plan, InputError> {
    let mut request = request(&[text], None, None);
    request.parameters.length = length;
    fill_mask.plan(&request, TEXTS_MAX)
}

#[test]
fn truncation_around_the_masks_keeps_them_and_as_much_as_fits() {
    let fill_mask = fill_mask();
    let ids = |text: &str| work::run_to_end(fill_mask.tokenizer.encode(text, &mut WorkBudget::new(LOOKUPS_MAX)));
    let special = ids("").unwrap();
    let [first, last] = special[..] else {
        panic!("{special:?}")
    };
    let word = |index: usize| ["the", "cat", "and", "dog", "in", "paris", "was", "small"][index * 7 % 8];
    for tokens in [60_usize, 62, 63, 64, 100, 200] {
        for masks in [
            vec![0],
            vec![tokens - 1],
            vec![tokens / 2],
            vec![10, 40],
            vec![0, 61],
            vec![tokens.saturating_sub(62), tokens - 1],
        ] {
            if masks.iter().any(|&mask| mask >= tokens) {
                continue;
            }
            let is_mask = |index: &usize| masks.contains(index);
            let words: Vec<&str> = (0..tokens)
                .map(|index| if is_mask(&index) { "[MASK]" } else { word(index) })
                .collect();
            let plan = planned(
                &fill_mask,
                &words.join(" "),
                LengthRule::truncate(Truncation::AroundMask),
            )
            .unwrap();
            let sequence = &plan.sequences[0];
            assert_eq!(sequence.tokens(), TOKENS_MAX.min(tokens + 2), "{tokens} {masks:?}");
            let cut = tokens.saturating_sub(TOKENS_MAX - 2);
            assert_eq!(plan.notes.truncated_tokens, Some(cut), "{tokens} {masks:?}");
            assert_eq!(sequence.readout.positions.len(), masks.len(), "{tokens} {masks:?}");
            let ids = &sequence.token_ids;
            assert_eq!((ids[0], ids[ids.len() - 1]), (first, last), "{tokens} {masks:?}");
            // A part of the text, in its order.
            let start = masks[0] + 1 - sequence.readout.positions[0];
            let kept = &words[start..start + ids.len() - 2];
            let kept: Vec<u32> = kept
                .iter()
                .map(|word| fill_mask.tokenizer.token_id(word).unwrap())
                .collect();
            assert_eq!(kept, ids[1..ids.len() - 1], "{tokens} {masks:?}");
        }
    }
    let far = format!("[MASK] {} [MASK]", "the ".repeat(TOKENS_MAX));
    let error = with_length(&far, LengthRule::truncate(Truncation::AroundMask)).unwrap_err();
    let apart = EncodeError::from(TruncationError::MasksTooFarApart { span: 66, kept_max: 62 });
    assert_eq!(error, InputError::Encode(apart));
}

#[test]
fn a_mask_is_never_cut_off_silently() {
    let text = format!("[MASK] {}", "the ".repeat(TOKENS_MAX));
    assert!(with_length(&text, LengthRule::truncate(Truncation::Right)).is_ok());
    let error = with_length(&text, LengthRule::truncate(Truncation::Left)).unwrap_err();
    assert!(
        matches!(
            error,
            InputError::Encode(EncodeError::Truncation(TruncationError::MaskCutOff { .. }))
        ),
        "{error}"
    );
    let no_mask = "the ".repeat(TOKENS_MAX);
    for truncation in [Truncation::Right, Truncation::AroundMask] {
        assert!(with_length(&no_mask, LengthRule::truncate(truncation)).is_err());
    }
    let to = |max_length| LengthRule {
        truncation: Truncation::Right,
        max_length: Some(max_length),
    };
    assert_eq!(with_length(&text, to(10)).unwrap().tokens(), 10);
    assert_eq!(with_length(&text, to(3)).unwrap().tokens(), 3);
    for max_length in [0, 1, 2] {
        assert!(with_length(&text, to(max_length)).is_err(), "{max_length}");
    }
    let beyond = EncodeError::TooManyTokens { tokens: 67, max: 64 };
    assert_eq!(with_length(&text, to(1000)), Err(InputError::Encode(beyond)));
}

#[test]
fn a_long_text_is_truncated_within_bounds() {
    let right = LengthRule::truncate(Truncation::Right);
    // Far more than the limit of a text that is refused.
    let plan = with_length(&format!("[MASK] {}", "the cat ".repeat(7000)), right).unwrap();
    assert_eq!(plan.tokens(), TOKENS_MAX);
    for text in ["[MASK] ".repeat(20_000), format!("[MASK]{}", "!".repeat(60_000))] {
        let error = with_length(&text, right).unwrap_err();
        assert!(
            matches!(error, InputError::Encode(EncodeError::TooManyBytes { .. })),
            "{error}"
        );
    }
}

#[test]
fn replaced_targets_are_noted() {
    let plan = plan(&["[MASK]"], None, Some(&["cat", "Paris", "unthinkableness", " "])).unwrap();
    let listed = |target: &str, token: Option<&str>| (target.to_owned(), token.map(str::to_owned));
    assert_eq!(
        plan.notes.replaced_targets.listed,
        [
            listed("Paris", Some("paris")),
            listed("unthinkableness", Some("un")),
            listed(" ", None)
        ]
    );
}

#[test]
fn a_target_with_the_space_of_its_token_is_not_replaced() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden/roberta");
    let model = PretrainedModel::open(folder.as_ref()).unwrap();
    let model = TaskModel::new(model.tokenizer, &model.info, TOKENS_MAX);
    let request = request(&["a <mask>"], None, Some(&[" the", " unthinkableness"]));
    let listed = model.plan(&request, TEXTS_MAX).unwrap().notes.replaced_targets.listed;
    let listed: Vec<&str> = listed.iter().map(|(target, _)| target.as_str()).collect();
    assert_eq!(listed, [" unthinkableness"]);
}

#[test]
fn renormalized_scores_are_shares_of_the_targets() {
    let fill_mask = fill_mask();
    let mut request = request(&["the [MASK]."], Some(2), Some(&["paris", "london", "cat"]));
    request.parameters.renormalize = true;
    let plan = fill_mask.plan(&request, 1).unwrap();
    let scores = vec![vec![vec![
        score("cat", 0.01),
        score("london", 0.06),
        score("paris", 0.03),
    ]]];
    let answers = fill_mask.decode(&Answer::new(plan, scores)).unwrap();
    for (prediction, expected) in answers[0][0].iter().zip([0.6, 0.3]) {
        assert!((prediction.score - expected).abs() < 1e-6, "{prediction:?}");
    }
    request.parameters.targets = None;
    assert!(matches!(fill_mask.plan(&request, 1), Err(InputError::Parameters(_))));
}

#[test]
fn the_work_of_a_request_is_bounded_over_its_texts_and_targets() {
    // A word that is unknown by its last character alone costs the most: 4,900 look-ups.
    let word = |index: usize| format!("{index:05}{}\u{2603}", "x".repeat(93));
    let targets: Vec<String> = (0..9_000).map(word).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let text = format!("[MASK] {}", format!("{} ", word(1)).repeat(40));
    let texts = vec![text.as_str(); 100];
    let too_much = EncodeError::TooMuchWork { max: LOOKUPS_MAX }.to_string();
    let refusal = |texts: &[&str], targets: Option<&[&str]>| {
        let refused = fill_mask().plan(&request(texts, None, targets), 512);
        refused.unwrap_err().to_string()
    };
    assert_eq!(refusal(&["[MASK]"], Some(&targets)), too_much);
    assert!(refusal(&texts, None).ends_with(&too_much));
    // Half of it each, in one request.
    assert!(plan(&["[MASK]"], None, Some(&targets[..1500])).is_ok());
    assert!(fill_mask().plan(&request(&texts[..35], None, None), 512).is_ok());
    assert!(refusal(&texts[..35], Some(&targets[..1500])).ends_with(&too_much));
}

#[test]
fn the_scores_of_targets_are_bounded_however_few_are_kept() {
    let fill_mask = fill_mask();
    let words: Vec<String> = (1000..11_000)
        .filter_map(|id| fill_mask.tokenizer.decode(&[id], false).ok())
        .collect();
    let targets: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| word.len() > 2)
        .take(5000)
        .collect();
    let text = "[MASK] ".repeat(60);
    // Some hundred thousand scores for each text, of which one in thousands is kept.
    assert!(plan(&[&text], Some(1), Some(&targets)).is_ok());
    let refused = fill_mask.plan(&request(&vec![text.as_str(); 40], Some(1), Some(&targets)), 512);
    let too_much = EncodeError::TooMuchWork { max: LOOKUPS_MAX }.to_string();
    assert!(refused.unwrap_err().to_string().ends_with(&too_much));
}

#[test]
fn parameters_can_be_checked_without_a_text() {
    let fill_mask = fill_mask();
    let parameters = |top_k, targets| request(&[], top_k, targets).parameters;
    assert_eq!(fill_mask.check(&parameters(Some(3), None)), Ok(()));
    assert!(fill_mask.check(&parameters(Some(0), None)).is_err());
    assert_eq!(
        fill_mask.check(&parameters(None, Some(&[""]))),
        Err(InputError::NoTarget)
    );
}

#[test]
fn the_answer_is_bounded_over_all_texts_of_a_request() {
    // 60 masks of 833 predictions each fit, 61 do not.
    let masks = |count: usize| "[MASK] ".repeat(count);
    assert!(plan(&[&masks(40), &masks(20)], Some(833), None).is_ok());
    let error = plan(&[&masks(40), &masks(21)], Some(833), None).unwrap_err();
    assert!(
        matches!(
            error,
            InputError::TooManyPredictions {
                predictions: 50_813,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn predictions_are_sorted_and_cut_to_top_k() {
    let fill_mask = fill_mask();
    let targets = ["paris", "london", "cat"];
    let request = request(&["the [MASK]."], Some(2), Some(&targets));
    let plan = fill_mask.plan(&request, 1).unwrap();
    let scores = vec![vec![vec![score("cat", 0.1), score("london", 0.6), score("paris", 0.3)]]];
    let answers = fill_mask.decode(&Answer::new(plan, scores)).unwrap();
    let [predictions] = &answers[0][..] else {
        panic!("{answers:?}")
    };
    assert_eq!(strings(predictions), ["london", "paris"]);
    assert_eq!(predictions[0].token, token("london"));
    assert_eq!(predictions[0].sequence, "the london.");
    for (prediction, expected) in predictions.iter().zip([0.6, 0.3]) {
        assert!((prediction.score - expected).abs() < 1e-6, "{prediction:?}");
    }
}

#[test]
fn the_other_masks_stay_in_the_sequence_of_each() {
    let fill_mask = fill_mask();
    let plan = fill_mask
        .plan(&request(&["[MASK] cat [MASK]"], Some(1), None), 1)
        .unwrap();
    let scores = vec![vec![vec![score("the", 0.5)], vec![score("dog", 0.25)]]];
    let answers = fill_mask.decode(&Answer::new(plan, scores)).unwrap();
    let [first, second] = &answers[0][..] else {
        panic!("{answers:?}")
    };
    assert_eq!(first[0].sequence, "[CLS] the cat [MASK] [SEP]");
    assert_eq!(second[0].sequence, "[CLS] [MASK] cat dog [SEP]");
}

#[test]
fn a_padding_token_is_left_out_of_the_sequence() {
    let fill_mask = fill_mask();
    let plan = fill_mask
        .plan(&request(&["[PAD] [MASK] the [MASK]"], Some(1), None), 1)
        .unwrap();
    let scores = vec![vec![vec![score("cat", 0.5)], vec![score("dog", 0.25)]]];
    let answers = fill_mask.decode(&Answer::new(plan, scores)).unwrap();
    assert_eq!(answers[0][0][0].sequence, "[CLS] cat the [MASK] [SEP]");
}

#[test]
fn each_text_gets_the_scores_of_its_sequence() {
    let fill_mask = fill_mask();
    let plan = fill_mask
        .plan(&request(&["a [MASK]", "the [MASK]"], Some(1), None), 2)
        .unwrap();
    let scores = vec![vec![vec![score("cat", 0.5)]], vec![vec![score("dog", 0.5)]]];
    let answers = fill_mask.decode(&Answer::new(plan, scores)).unwrap();
    let sequences: Vec<&str> = answers.iter().map(|answer| answer[0][0].sequence.as_str()).collect();
    assert_eq!(sequences, ["a cat", "the dog"]);
}
