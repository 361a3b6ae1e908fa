//! The entry point of the library: opens a model, loads it, warms it up, and answers or serves.

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint::{CheckpointError, Source};
use crate::engine::{Engine, Limits};
use crate::lm::{
    BackendKind, DeviceInfo, LoadError, LoadedModel, ModelInfo, Placement, PretrainedModel, WarmUp, WarmUpError,
};
use crate::pipeline::{self, Answered, Deadline, MEMORY_BYTES_MAX, Pipeline};
use crate::server::{self, About, App, Settings};
use crate::tasks::TaskModel;
use crate::tasks::fill_mask::{Parameters, Request, TextAnswer};

/// The name of [`Source::embedded`].
const DEMO_NAME: &str = "demo";

/// A batch on a GPU takes milliseconds.
const GPU_BATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// A masked language model with an engine that runs it.
///
/// Its workers end when it is dropped. It answers inside a tokio runtime.
pub struct Cloze {
    name: String,
    info: ModelInfo,
    device: DeviceInfo,
    pipeline: Arc<Pipeline>,
}

impl Cloze {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Opens a folder in the layout of the Hugging Face hub, with the default settings.
    ///
    /// # Errors
    /// [`OpenError`] names the file or the device that failed.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open(Source::folder(folder.as_ref())?)
    }

    /// Opens the small demo model inside the library, with the default settings.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn demo() -> Result<Self, OpenError> {
        Self::builder().open(Source::embedded())
    }

    /// The folder's name, the name on the hub, or `demo`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    pub fn device(&self) -> &DeviceInfo {
        &self.device
    }

    /// The token that marks a gap in a text, such as `[MASK]`.
    pub fn mask_token(&self) -> &str {
        self.pipeline.model().mask_token()
    }

    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// The five likeliest tokens for each mask of `text`.
    ///
    /// # Errors
    /// As of [`answer`](Self::answer).
    pub async fn fill_mask(&self, text: &str) -> Result<TextAnswer, pipeline::Error> {
        let request = Request {
            texts: vec![text.to_owned()],
            parameters: Parameters::default(),
        };
        let mut answered = self.answer(request).await?;
        Ok(answered.texts.remove(0))
    }

    /// Answers a request, however long it takes.
    ///
    /// # Errors
    /// A text or parameter that is refused, a full queue, and failures of the model.
    pub async fn answer(&self, request: Request) -> Result<Answered, pipeline::Error> {
        let admission = self.pipeline.admit()?;
        let scored = self.pipeline.run(admission, request, Deadline::never()).await?;
        self.pipeline.decode(scored, Deadline::never()).await
    }
}

impl Cloze {
    /// Serves over HTTP on `listener` until `shutdown` completes, or the model is lost. Requests that were accepted by
    /// then are still answered, for as long as the settings allow. The engine has stopped afterwards.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub async fn serve(
        self,
        listener: TcpListener,
        settings: Settings,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let drain_timeout = settings.drain_timeout;
        let app = Arc::new(self.into_app(settings));
        let pipeline = Arc::clone(&app.pipeline);
        let shutdown = async move {
            tokio::select! {
                () = shutdown => {}
                _ = pipeline.engine().broken() => {}
            }
        };
        server::serve(listener, app, shutdown, drain_timeout).await
    }

    /// The HTTP service of this model, for [`server::serve`].
    pub fn into_app(self, settings: Settings) -> App {
        let last_part = self.name.rsplit('/').next().unwrap_or(&self.name);
        let about = About {
            model_name: settings.model_name.unwrap_or_else(|| last_part.to_owned()),
            is_demo: self.name == DEMO_NAME,
            hub_name: self.name.contains('/').then_some(self.name),
            model: self.info,
            device: self.device.to_string(),
            backend: self.device.backend().to_owned(),
            dtype: self.device.precision().to_string(),
        };
        App {
            pipeline: self.pipeline,
            request_timeout: settings.request_timeout,
            body_bytes_max: settings.body_bytes_max,
            about,
            options: settings.options,
            state: server::State::default(),
            openapi: std::sync::OnceLock::new(),
        }
    }
}

/// The largest part of a warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WarmUpExtent {
    /// Every size of batch that a GPU compiles kernels for; one batch on the CPU.
    #[default]
    Full,
    /// One batch. A GPU compiles kernels for other sizes when requests need them.
    Short,
    /// No batch.
    Skip,
}

/// The time after which a batch counts as hung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchTimeout {
    /// A minute on a GPU after a full warm-up; never on the CPU, and never where batches may wait for a compiler.
    #[default]
    Auto,
    Never,
    After(Duration),
}

/// Settings of a [`Cloze`] that is not open yet.
pub struct Builder {
    placement: Placement,
    limits: Limits,
    tokens_max: Option<usize>,
    texts_max: Option<usize>,
    memory_max: usize,
    warm_up: WarmUpExtent,
    batch_timeout: BatchTimeout,
    on_warm_up: Box<dyn FnMut(usize, usize)>,
}

impl Default for Builder {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            placement: Placement::new(BackendKind::Cpu, threads),
            limits: Limits::default(),
            tokens_max: None,
            texts_max: None,
            memory_max: MEMORY_BYTES_MAX,
            warm_up: WarmUpExtent::default(),
            batch_timeout: BatchTimeout::default(),
            on_warm_up: Box::new(|_, _| {}),
        }
    }
}

impl Builder {
    /// The device of the model; by default on the CPU with one worker and a thread for each core.
    pub fn placement(self, placement: Placement) -> Self {
        Self { placement, ..self }
    }

    /// Sizes of queue and batches.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The longest text in tokens, special tokens included; by default what the model and a batch can take.
    pub fn tokens_max(self, tokens_max: usize) -> Self {
        Self {
            tokens_max: Some(tokens_max),
            ..self
        }
    }

    /// The most texts of one request; by default the size of the queue.
    pub fn texts_max(self, texts_max: usize) -> Self {
        Self {
            texts_max: Some(texts_max),
            ..self
        }
    }

    /// The most bytes of all bodies and answers in memory; by default [`MEMORY_BYTES_MAX`].
    pub fn memory_max(self, memory_max: usize) -> Self {
        Self { memory_max, ..self }
    }

    pub fn warm_up(self, warm_up: WarmUpExtent) -> Self {
        Self { warm_up, ..self }
    }

    pub fn batch_timeout(self, batch_timeout: BatchTimeout) -> Self {
        Self { batch_timeout, ..self }
    }

    /// Calls `progress` during the warm-up with the number of batch sizes that are done, from 0, and of all.
    pub fn on_warm_up(self, progress: impl FnMut(usize, usize) + 'static) -> Self {
        Self {
            on_warm_up: Box::new(progress),
            ..self
        }
    }

    /// Reads a model, loads its weights, warms it up and starts its engine.
    ///
    /// # Errors
    /// [`OpenError`] names what failed.
    pub fn open(self, source: Source) -> Result<Cloze, OpenError> {
        let mut model = PretrainedModel::read(source)?;
        self.check(&model.info)?;
        let loaded = model.load(&self.placement)?;
        self.start(model, loaded)
    }

    /// Warms up a model that is loaded already, or one of the caller's own ([`LoadedModel::custom`]), and starts its
    /// engine.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn start(mut self, model: PretrainedModel, loaded: LoadedModel) -> Result<Cloze, OpenError> {
        let LoadedModel {
            mut workers, device, ..
        } = loaded;
        let tokens_max = self.text_tokens_max(&model.info)?;
        let compiles = self.warm_up == WarmUpExtent::Full && device.compiles_per_bucket();
        let warm_up = WarmUp {
            vocab_size: model.info.vocab_size,
            sequence_tokens_max: tokens_max,
            batch_tokens_max: if compiles { self.limits.batch_tokens_max } else { 1 },
        };
        if self.warm_up != WarmUpExtent::Skip {
            warm_up.run(&mut workers, &mut self.on_warm_up)?;
        }
        let batch_timeout = self.watchdog_limit(&device);
        let engine = Engine::start(workers, self.limits).map_err(OpenError::Threads)?;
        if let Some(limit) = batch_timeout {
            engine.start_watchdog(limit).map_err(OpenError::Threads)?;
        }
        let task = TaskModel::new(model.tokenizer, &model.info, tokens_max);
        let pipeline = Pipeline::start(task, engine).map_err(OpenError::Threads)?;
        let mut pipeline = pipeline.with_memory_max(self.memory_max);
        if let Some(texts_max) = self.texts_max {
            pipeline = pipeline.with_texts_max(texts_max);
        }
        Ok(Cloze {
            name: model.name,
            info: model.info,
            device,
            pipeline: Arc::new(pipeline),
        })
    }

    /// Checks these settings against a model before its weights are loaded.
    ///
    /// # Errors
    /// [`OpenError::TextLongerThanBatch`].
    pub fn check(&self, info: &ModelInfo) -> Result<(), OpenError> {
        self.text_tokens_max(info).map(drop)
    }

    /// No text may be longer than a batch.
    fn text_tokens_max(&self, info: &ModelInfo) -> Result<usize, OpenError> {
        let batch_tokens_max = self.limits.batch_tokens_max;
        match self.tokens_max {
            None => Ok(batch_tokens_max.min(info.max_tokens)),
            Some(tokens_max) if tokens_max > batch_tokens_max => Err(OpenError::TextLongerThanBatch {
                tokens_max,
                batch_tokens_max,
            }),
            Some(tokens_max) => Ok(tokens_max.min(info.max_tokens)),
        }
    }

    fn watchdog_limit(&self, device: &DeviceInfo) -> Option<Duration> {
        match (self.batch_timeout, self.warm_up) {
            (BatchTimeout::Never, _) | (BatchTimeout::Auto, WarmUpExtent::Short | WarmUpExtent::Skip) => None,
            (BatchTimeout::After(limit), _) => Some(limit),
            (BatchTimeout::Auto, WarmUpExtent::Full) => device.may_hang().then_some(GPU_BATCH_TIMEOUT),
        }
    }
}

/// A model that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    WarmUp(#[from] WarmUpError),
    #[error("a text of {tokens_max} tokens does not fit a batch of {batch_tokens_max}")]
    TextLongerThanBatch { tokens_max: usize, batch_tokens_max: usize },
    #[error("the engine's threads cannot be started: {0}")]
    Threads(#[source] std::io::Error),
}
