//! Reasons why architectures of transformers with a masked-language-model head are refused.

use super::supported;

/// Model types and what the encoder lacks for them.
const REASONS: &[(&[&str], &str)] = &[
    (
        &["deberta", "deberta-v2"],
        "its attention has relative positions, and most published files have no trained masked-language-model head",
    ),
    (
        &["mobilebert"],
        "its layers have bottlenecks and stacked feed-forward blocks",
    ),
    (&["convbert"], "its layers have convolutions beside attention"),
    (
        &["longformer", "led", "big_bird", "nystromformer", "mra", "yoso"],
        "its attention is sparse",
    ),
    (&["funnel"], "it pools the sequence between its layers"),
    (
        &["xlm", "flaubert"],
        "it has language embeddings and a tokenizer that is written in Python",
    ),
    (
        &["roc_bert", "layoutlm", "tapas", "luke", "mluke"],
        "it reads more than the tokens of a text",
    ),
    (&["ibert"], "its weights are quantized"),
    (
        &["fnet", "mega", "reformer", "perceiver"],
        "it mixes tokens without softmax attention",
    ),
    (&["xmod"], "it has an adapter for each language"),
    (
        &[
            "bart",
            "mbart",
            "mvp",
            "t5",
            "mt5",
            "bigbird_pegasus",
            "switch_transformers",
            "udop",
        ],
        "it has an encoder and a decoder",
    ),
];

/// The sentence that refuses `model_type`.
pub fn reason(model_type: &str) -> String {
    let refused = format!("model_type is \"{model_type}\"; supported: {}", supported());
    match REASONS.iter().find(|(types, _)| types.contains(&model_type)) {
        Some((_, reason)) => format!("{refused}. {model_type} is not: {reason}"),
        None => refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::families::FAMILIES;

    #[test]
    fn a_known_architecture_is_refused_with_the_reason() {
        let refused = reason("deberta-v2");
        assert!(
            refused.contains("supported: bert, roberta") && refused.contains("no trained masked-language-model head"),
            "{refused}"
        );
        assert!(!reason("gpt2").contains("is not"));
    }

    #[test]
    fn a_supported_architecture_has_no_reason_to_be_refused() {
        for family in FAMILIES {
            let refused = REASONS.iter().any(|(types, _)| types.contains(&family.model_type));
            assert!(!refused, "{}", family.model_type);
        }
    }
}
