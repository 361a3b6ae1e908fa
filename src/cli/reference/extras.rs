//! Examples, exit codes, variables without a flag, and files: the content of the reference beside the flags.

/// Content of a command's reference beside the flags.
pub struct Extras {
    /// Command lines and their purpose.
    pub examples: &'static [(&'static str, &'static str)],
    pub exit: &'static [(&'static str, &'static str)],
}

const SERVE: Extras = Extras {
    examples: &[
        ("cloze", "serve the demo model at http://127.0.0.1:8000"),
        (
            "cloze -m google-bert/bert-base-uncased",
            "serve a model of the Hugging Face hub",
        ),
        (
            "cloze -m ./my-model -d bf16",
            "serve a folder that save_pretrained wrote, in bf16",
        ),
        (
            "CLOZE_API_KEY=secret cloze --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
            "serve HTTPS to other machines, behind a key",
        ),
    ],
    exit: &[
        ("0", "stopped by SIGTERM or Ctrl-C, accepted requests answered"),
        ("1", "the start failed, or the model or its device failed"),
        ("2", "flags or variables that are not valid"),
        ("130", "a second signal ended the process at once"),
    ],
};
const LINES: &[(&str, &str)] = &[
    ("0", "every line has an answer"),
    ("1", "the command could not start or go on"),
    ("2", "flags or variables that are not valid"),
    ("3", "some lines have an error in place of an answer"),
    ("130", "Ctrl-C"),
];
const PREDICT: Extras = Extras {
    examples: &[
        ("cloze predict texts.txt > answers.jsonl", "answer each line of a file"),
        (
            "cloze predict -k 1 --targets is,are texts.txt",
            "the better of two words for each mask",
        ),
        (
            "generate | cloze predict --format json",
            "requests as JSON from another program",
        ),
    ],
    exit: LINES,
};
const SCORE: Extras = Extras {
    examples: &[(
        "cloze score --per-token texts.txt",
        "scores of the texts and of their tokens",
    )],
    exit: LINES,
};
const SPARSE: Extras = Extras {
    examples: &[(
        "cloze sparse -m naver/splade-v3 texts.txt",
        "a sparse vector for each line",
    )],
    exit: LINES,
};
const HEALTH: Extras = Extras {
    examples: &[
        (
            "cloze health",
            "check the server on port 8000, or CLOZE_PORT, of this machine",
        ),
        (
            "cloze health --url https://cloze.example.org:8000",
            "check another server",
        ),
    ],
    exit: &[
        ("0", "ready"),
        ("1", "not ready, or no response"),
        ("2", "flags or variables that are not valid"),
    ],
};
const INSPECT: Extras = Extras {
    examples: &[
        ("cloze inspect ./my-model", "check a folder before it is served"),
        (
            "cloze inspect --json google-bert/bert-base-uncased",
            "describe a model of the hub as JSON",
        ),
    ],
    exit: &[
        ("0", "Cloze serves the model"),
        ("1", "the model has errors, which are listed, or cannot be read"),
        ("2", "flags or variables that are not valid"),
    ],
};
const DEVICES: Extras = Extras {
    examples: &[("cloze devices", "list the CPU and the GPUs")],
    exit: &[
        ("0", "listed"),
        ("1", "standard output cannot be written"),
        ("2", "flags that are not valid"),
    ],
};
const COMPLETIONS: Extras = Extras {
    examples: &[
        (
            "d=~/.local/share/bash-completion/completions; mkdir -p $d && cloze completions bash > $d/cloze",
            "install completions for bash",
        ),
        (
            "d=~/.config/fish/completions; mkdir -p $d && cloze completions fish > $d/cloze.fish",
            "install completions for fish",
        ),
    ],
    exit: &[
        ("0", "printed"),
        ("1", "standard output cannot be written"),
        ("2", "no such shell"),
    ],
};
const MAN: Extras = Extras {
    examples: &[
        ("cloze man | man -l -", "show the manual page"),
        ("cloze man predict | man -l -", "show the page of a command"),
        (
            "cloze man /usr/local/share/man/man1",
            "install the pages of all commands",
        ),
        (
            "cloze man --markdown > docs/configuration.md",
            "write the reference of flags and variables",
        ),
    ],
    exit: &[
        ("0", "written"),
        ("1", "the pages cannot be written"),
        ("2", "flags that are not valid"),
    ],
};

/// Variables that no flag has.
pub const VARIABLES: [(&str, &str); 13] = [
    (
        "CLOZE_CPU_FEATURES",
        "A lesser instruction set of the CPU: avx512_bf16, avx512_vnni, avx512, avx2 or portable; on AArch64 neon or portable",
    ),
    (
        "CLOZE_GPU_LANGUAGE",
        "The language of GPU kernels: spirv, in a build with the cargo feature vulkan, or wgsl [default: spirv where the driver has the features for it]",
    ),
    ("HF_HOME", "Folder of the hub's tools [default: ~/.cache/huggingface]"),
    ("HF_HUB_CACHE", "Folder for downloaded models [default: hub in HF_HOME]"),
    (
        "HF_TOKEN, HF_TOKEN_PATH",
        "Access token for gated and private models, or the file that holds it [default: token in HF_HOME]",
    ),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1: send no token"),
    (
        "HF_ENDPOINT",
        "Address of another hub, such as a mirror [default: https://huggingface.co]",
    ),
    (
        "HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE",
        "1: open no connection to the hub",
    ),
    (
        "HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT",
        "Seconds to wait for the head of a response, and for the next bytes of a download [default: 30]",
    ),
    (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "1: a log line in place of a progress bar for each download",
    ),
    ("HTTPS_PROXY, NO_PROXY", "Proxy for downloads, and hosts that need none"),
    (
        "SSL_CERT_FILE",
        "Certificates to trust for downloads and traces [default: Mozilla's]",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "Collector of traces, in builds with otel; the other variables of OpenTelemetry's SDKs apply",
    ),
];

pub const FILES: [(&str, &str); 2] = [
    (
        "~/.cache/huggingface/hub",
        "Downloaded models, shared with all tools of the hub",
    ),
    ("~/.cache/huggingface/token", "Access token that `hf auth login` wrote"),
];

pub fn extras(command: &str) -> Extras {
    match command {
        "predict" => PREDICT,
        "score" => SCORE,
        "sparse" => SPARSE,
        "health" => HEALTH,
        "inspect" => INSPECT,
        "devices" => DEVICES,
        "completions" => COMPLETIONS,
        "man" => MAN,
        _ => SERVE,
    }
}
