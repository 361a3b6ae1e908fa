//! Matrix products of CubeK whose operands are converted as they are read, and whose results are finished as they are
//! written: one launch for selected rows, values [split](super::split_f16) in two f16 parts, bias and activation.
//!
//! The parts of split operands lie one after the other along the inner dimension: `x · wᵀ` of `x = high + low` is the
//! product of `[high, low]` and `[w, w]`, and of a weight that is split too that of `[high, low, high]` and `[w high,
//! w high, w low]`. The accumulators add them up.

use burn::tensor::{DType, Shape};
use cubecl::client::Client;
use cubecl::ir::AddressType;
use cubecl::prelude::*;
use cubecl::std::tensor::launch::ViewArg;
use cubecl::std::tensor::layout::plain::PlainLayout;
use cubecl::std::tensor::layout::{Coords1d, Layout, LayoutExpand};
use cubecl::std::tensor::{
    View, ViewMut, ViewOperations, ViewOperationsExpand, ViewOperationsMut, ViewOperationsMutExpand,
};
use cubecl::zspace::strides;
use cubek_matmul::definition::{
    AvailableVectorSizes, MatmulGlobalElems, MatmulProblem, MatmulSetupError, MatmulVectorSizes,
};
use cubek_matmul::multi_level::args::{BatchedCoords, InputRuntimeArg, MatmulArgs, OutputRuntimeArg};
use cubek_matmul::multi_level::components::global::memory::GlobalLayoutConfig;
use cubek_matmul::multi_level::routines::batch::simple::SimpleAlgorithm;
use cubek_matmul::multi_level::routines::batch::simple_unit::SimpleUnitAlgorithm;
use cubek_matmul::multi_level::{BatchMatmulRoutine, launch_kernel_virtual};
use cubek_matmul::routine::BlueprintStrategy;
use half::f16;

use super::activation::activate;
use super::{Primitive, Rows, element, empty};
use crate::backend::Activation;

/// Values of a product that are added, and a function of the sum.
pub struct Epilogue {
    /// `[outputs]`, f32.
    pub bias: Primitive,
    /// Not a rare one.
    pub activation: Option<Activation>,
}

/// Parts of the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Parts {
    /// Parts of the rows in memory.
    stored: u32,
    /// Parts of the rows that are multiplied.
    multiplied: u32,
    /// Parts of the weight.
    weight: u32,
}

impl Parts {
    /// Products that are added up.
    fn products(self) -> u32 {
        self.multiplied + self.weight - 1
    }
}

/// `finish(x · weightᵀ)` in `dtype`, `[rows, outputs]`; all contiguous.
///
/// `weight` is `[outputs, columns]`, or split `[outputs, 2 * columns]`. `x` has `columns` columns in the type of the
/// weight; f32 rows of an f16 weight are split as they are read. Of split rows both parts are multiplied if
/// `is_exact`, else the high part.
pub fn product(
    x: Rows,
    weight: Primitive,
    columns: usize,
    is_exact: bool,
    epilogue: Option<Epilogue>,
    dtype: DType,
) -> Primitive {
    let client = x.values.client.clone();
    let (rows, outputs) = (x.len(), weight.meta.shape()[0]);
    let parts_of = |of: &Primitive| (of.meta.shape()[1] / columns) as u32;
    let splits = x.values.dtype != weight.dtype;
    let parts = Parts {
        stored: parts_of(&x.values),
        multiplied: match splits || (is_exact && parts_of(&x.values) == 2) {
            true => 2,
            false => 1,
        },
        weight: parts_of(&weight),
    };
    let output = empty(&x.values, Shape::new([rows, outputs]), dtype);

    let inner = columns * parts.products() as usize;
    let sizes = |shape: [usize; 2]| shape.into_iter().collect::<cubecl::zspace::Shape>();
    let elements = MatmulGlobalElems {
        lhs: element(weight.dtype),
        rhs: element(weight.dtype),
        out: element(DType::F32),
    };
    let problem = MatmulProblem::from_shapes_and_strides(
        sizes([rows, inner]),
        sizes([inner, outputs]),
        sizes([rows, outputs]),
        strides![inner, 1],
        strides![1, inner],
        strides![outputs, 1],
        elements,
        AddressType::default(),
        None,
        None,
    )
    .expect("the sizes fit together");
    // A vector lies within one part.
    let vectors = AvailableVectorSizes::from_type_sizes(&client, x.values.dtype.size(), weight.dtype.size(), 4)
        .filter_lhs_with_tensor(&strides![columns, 1], &sizes([rows, columns]), problem.lhs_layout)
        .filter_rhs_with_tensor(&strides![1, columns], &sizes([columns, outputs]), problem.rhs_layout)
        .filter_out_with_tensor(&problem.out_strides, &problem.out_shape)
        .pick_max()
        .expect("every type has vectors of one element");

    let arguments = || {
        let view = |of: &Primitive| ViewArg::new_tensor::<PlainLayout>(of.clone().into_tensor_arg(), ());
        let values = match splits {
            true => SourceArgs::F32(view(&x.values)),
            false => SourceArgs::Stored(view(&x.values)),
        };
        let inputs = ProductInputsLaunch::new(
            values,
            x.selected.as_ref().map(view).into(),
            view(&weight),
            rows as u32,
            columns as u32,
            outputs as u32,
            parts,
        );
        let y = match dtype {
            DType::F16 => TargetArgs::F16(view(&output)),
            _ => TargetArgs::Stored(view(&output)),
        };
        let bias = epilogue.as_ref().map(|epilogue| view(&epilogue.bias));
        let activation = epilogue.as_ref().and_then(|epilogue| epilogue.activation);
        let outputs = ProductOutputLaunch::new(y, bias.into(), rows as u32, outputs as u32, activation);
        (inputs, outputs)
    };
    // As CubeK's own choice without measurements: matrix units where the types have them.
    if !client.features().matmul.cmma.is_empty() {
        let (inputs, outputs) = arguments();
        match launch::<SimpleAlgorithm>(&client, inputs, outputs, problem.clone(), vectors) {
            Err(MatmulSetupError::Unavailable(_)) => (),
            launched => {
                launched.expect("a device with matrix units takes every size");
                return output;
            }
        }
    }
    let (inputs, outputs) = arguments();
    launch::<SimpleUnitAlgorithm>(&client, inputs, outputs, problem, vectors).expect("every device has this kernel");
    output
}

fn launch<A: BatchMatmulRoutine<()>>(
    client: &Client,
    inputs: InputRuntimeArg<ProductArgs>,
    output: OutputRuntimeArg<ProductArgs>,
    problem: MatmulProblem,
    vectors: MatmulVectorSizes,
) -> Result<(), MatmulSetupError> {
    let blueprint = BlueprintStrategy::<(), A>::default();
    launch_kernel_virtual::<ProductArgs, A>(client, inputs, output, (), problem, vectors, &blueprint)
}

#[derive(Clone)]
struct ProductArgs;

/// The rows as they lie in memory.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
#[allow(dead_code, reason = "CubeCL generates the uses")]
enum Source<L: CubePrimitive> {
    /// In the type of the product.
    Stored(View<'static, L, Coords1d>),
    /// In f32, of a product in f16.
    F32(View<'static, Vector<f32, L::Size>, Coords1d>),
}

/// The result as it lies in memory.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
#[allow(dead_code, reason = "CubeCL generates the uses")]
enum Target<O: CubePrimitive> {
    Stored(ViewMut<'static, O, Coords1d>),
    F16(ViewMut<'static, Vector<f16, O::Size>, Coords1d>),
}

#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
struct ProductInputs<L: CubePrimitive, R: CubePrimitive> {
    values: Source<L>,
    selected: ComptimeOption<View<'static, u32, Coords1d>>,
    weight: View<'static, R, Coords1d>,
    rows: u32,
    columns: u32,
    outputs: u32,
    #[cube(comptime)]
    parts: Parts,
}

#[derive(CubeType, CubeLaunch, Clone)]
#[expand(derive(Clone))]
struct ProductOutput<O: CubePrimitive> {
    y: Target<O>,
    bias: ComptimeOption<View<'static, Vector<f32, O::Size>, Coords1d>>,
    rows: u32,
    outputs: u32,
    #[cube(comptime)]
    activation: Option<Activation>,
}

/// The places of a matrix.
#[derive(CubeType, Clone)]
struct Bounds {
    rows: u32,
    columns: u32,
}

#[cube]
impl Layout for Bounds {
    type Coordinates = BatchedCoords;
    type SourceCoordinates = BatchedCoords;

    fn to_source_pos(&self, position: Self::Coordinates) -> BatchedCoords {
        let (batch, row, column) = position;
        // A place out of bounds is read too, and its value replaced.
        (batch, min(row, self.rows - 1), min(column, self.columns - 1))
    }

    fn to_source_pos_checked(&self, position: Self::Coordinates) -> (BatchedCoords, bool) {
        (self.to_source_pos(position), self.is_in_bounds(position))
    }

    fn shape(&self) -> Self::Coordinates {
        (u32::MAX.runtime() as usize, self.rows, self.columns)
    }

    fn is_in_bounds(&self, position: Self::Coordinates) -> bool {
        let (_, row, column) = position;
        row < self.rows && column < self.columns
    }
}

/// The rows as CubeK reads them: `[rows, products * columns]`.
#[derive(CubeType)]
#[allow(dead_code, reason = "CubeCL generates the uses")]
struct LeftOperand<L: CubePrimitive, R: CubePrimitive> {
    inputs: ProductInputs<L, R>,
}

/// The weight as CubeK reads it: `[products * columns, outputs]`.
#[derive(CubeType)]
#[allow(dead_code, reason = "CubeCL generates the uses")]
struct RightOperand<L: CubePrimitive, R: CubePrimitive> {
    inputs: ProductInputs<L, R>,
}

/// The result as CubeK writes it.
#[derive(CubeType)]
#[allow(dead_code, reason = "CubeCL generates the uses")]
struct Finished<O: CubePrimitive> {
    output: ProductOutput<O>,
}

#[cube]
impl MatmulArgs for ProductArgs {
    type Input<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive> = ProductInputs<L, R>;
    type Output<O: CubePrimitive> = ProductOutput<O>;
    type Config = ();
    type State<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive> = (ProductInputs<L, R>, ProductOutput<O>);

    fn init_state<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        input: &Self::Input<L, R, O>,
        output: &mut Self::Output<O>,
        _config: (),
        #[comptime] _lhs: GlobalLayoutConfig,
        #[comptime] _rhs: GlobalLayoutConfig,
        #[comptime] _out: GlobalLayoutConfig,
    ) -> Self::State<L, R, O> {
        (input.clone(), output.clone())
    }

    fn view_lhs<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        state: &Self::State<L, R, O>,
    ) -> View<'_, L, BatchedCoords> {
        let inputs = state.0.clone();
        let bounds = Bounds {
            rows: inputs.rows,
            columns: inputs.columns * comptime!(inputs.parts.products()),
        };
        View::new::<LeftOperand<L, R>, BatchedCoords>(LeftOperand::<L, R> { inputs }, bounds)
    }

    fn batch_lhs<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        _state: &Self::State<L, R, O>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn view_rhs<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        state: &Self::State<L, R, O>,
    ) -> View<'_, R, BatchedCoords> {
        let inputs = state.0.clone();
        let bounds = Bounds {
            rows: inputs.columns * comptime!(inputs.parts.products()),
            columns: inputs.outputs,
        };
        View::new::<RightOperand<L, R>, BatchedCoords>(RightOperand::<L, R> { inputs }, bounds)
    }

    fn batch_rhs<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        _state: &Self::State<L, R, O>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn view_acc<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        _state: &Self::State<L, R, O>,
    ) -> ComptimeOption<View<'_, O, BatchedCoords>> {
        ComptimeOption::new_None()
    }

    fn batch_acc<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        _state: &Self::State<L, R, O>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn view_out<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        state: &Self::State<L, R, O>,
    ) -> ViewMut<'_, O, BatchedCoords> {
        let output = state.1.clone();
        let bounds = Bounds {
            rows: output.rows,
            columns: output.outputs,
        };
        ViewMut::new::<Finished<O>, BatchedCoords>(Finished::<O> { output }, bounds)
    }

    fn batch_out<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(
        _state: &Self::State<L, R, O>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn runtime_config<L: CubePrimitive, R: CubePrimitive, O: CubePrimitive>(_state: &Self::State<L, R, O>) {}
}

/// The part that a place of the inner dimension belongs to, and the column within it.
#[cube]
fn part_of(place: u32, columns: u32, #[comptime] products: u32) -> (u32, u32) {
    let mut part = 0u32;
    #[unroll]
    for next in 1..products {
        part += select(place >= next * columns, 1u32, 0u32);
    }
    (part, place - part * columns)
}

#[cube]
fn selected_row(selected: ComptimeOption<View<'static, u32, Coords1d>>, row: u32) -> u32 {
    #[comptime]
    match selected {
        ComptimeOption::Some(rows) => rows.read_unchecked(row as usize),
        ComptimeOption::None => row,
    }
}

/// The value at a place of the [`LeftOperand`].
#[cube]
fn left<L: CubePrimitive, R: CubePrimitive>(inputs: &ProductInputs<L, R>, position: BatchedCoords) -> L {
    let (_, row, place) = position;
    let parts = inputs.parts.comptime();
    let (part, column) = part_of(place, inputs.columns, comptime!(parts.products()));
    let row = selected_row(inputs.selected, row);
    // No part is that far.
    let is_low = part == comptime!(if parts.multiplied == 2 { 1u32 } else { u32::MAX });
    let first = row * inputs.columns * comptime!(parts.stored);
    stored_value(
        &inputs.values,
        first + column,
        inputs.columns,
        is_low,
        comptime!(parts.stored == 2),
    )
}

/// The value at `place` of the rows, or of its low part.
#[cube]
fn stored_value<L: CubePrimitive>(
    values: &Source<L>,
    place: u32,
    columns: u32,
    is_low: bool,
    #[comptime] is_split: bool,
) -> L {
    match values {
        Source::Stored(values) => {
            let mut place = place;
            if comptime!(is_split) {
                place += select(is_low, columns, 0u32);
            }
            values.read_unchecked(place as usize / values.vector_size())
        }
        Source::F32(values) => {
            let exact = values.read_unchecked(place as usize / values.vector_size());
            let high = L::cast_from(exact);
            let rest = L::cast_from(exact - Vector::<f32, L::Size>::cast_from(high));
            select(is_low, rest, high)
        }
    }
}

/// The value at a place of the [`RightOperand`].
#[cube]
fn right<L: CubePrimitive, R: CubePrimitive>(inputs: &ProductInputs<L, R>, position: BatchedCoords) -> R {
    let (_, place, output) = position;
    let parts = inputs.parts.comptime();
    let (part, column) = part_of(place, inputs.columns, comptime!(parts.products()));
    let mut at = output * inputs.columns * comptime!(parts.weight) + column;
    if comptime!(parts.weight == 2) {
        at += select(part == comptime!(parts.multiplied), inputs.columns, 0u32);
    }
    inputs.weight.read_unchecked(at as usize / inputs.weight.vector_size())
}

/// Writes a value of the product.
#[cube]
fn finish<O: CubePrimitive>(output: &ProductOutput<O>, position: BatchedCoords, value: O) {
    let (_, row, column) = position;
    let sum = Vector::<f32, O::Size>::cast_from(value);
    let finished = with_bias::<O::Size>(output.bias, column, sum, output.activation);
    write::<O>(&output.y, row * output.outputs + column, finished);
}

#[cube]
fn with_bias<N: Size>(
    bias: ComptimeOption<View<'static, Vector<f32, N>, Coords1d>>,
    column: u32,
    sum: Vector<f32, N>,
    #[comptime] activation: Option<Activation>,
) -> Vector<f32, N> {
    #[comptime]
    match bias {
        ComptimeOption::Some(bias) => {
            let sum = sum + bias.read_unchecked(column as usize / bias.vector_size());
            let mut finished = Vector::<f32, N>::empty();
            #[unroll]
            for lane in 0..N::value() {
                finished.insert(lane, activate(sum.extract(lane), activation));
            }
            finished
        }
        ComptimeOption::None => sum,
    }
}

#[cube]
fn write<O: CubePrimitive>(target: &Target<O>, place: u32, value: Vector<f32, O::Size>) {
    match target {
        Target::Stored(y) => {
            let y = *y;
            y.write(place as usize / y.vector_size(), O::cast_from(value));
        }
        Target::F16(y) => {
            let y = *y;
            y.write(
                place as usize / y.vector_size(),
                Vector::<f16, O::Size>::cast_from(value),
            );
        }
    }
}

type Position = <BatchedCoords as CubeType>::ExpandType;

/// Reads of an operand through a function. Every place is within [`Bounds`].
macro_rules! operand {
    ($operand:ident, $expand:ident, $element:ident, $read:ident) => {
        impl<L: CubePrimitive, R: CubePrimitive> Vectorized for $operand<L, R> {}
        impl<L: CubePrimitive, R: CubePrimitive> VectorizedExpand for $expand<L, R> {
            fn __expand_vector_size_method(&self, scope: &Scope) -> VectorSize {
                $element::__expand_vector_size(scope)
            }
        }
        impl<L: CubePrimitive, R: CubePrimitive> ViewOperations<$element, BatchedCoords> for $operand<L, R> {}
        impl<L: CubePrimitive, R: CubePrimitive> ViewOperationsExpand<$element, BatchedCoords> for $expand<L, R> {
            fn __expand_read_method(&self, scope: &Scope, position: Position) -> NativeExpand<$element> {
                $read::expand::<L, R>(scope, &self.inputs, position)
            }

            fn __expand_read_checked_method(&self, scope: &Scope, position: Position) -> NativeExpand<$element> {
                $read::expand::<L, R>(scope, &self.inputs, position)
            }

            fn __expand_read_masked_method(
                &self,
                scope: &Scope,
                position: Position,
                _value: NativeExpand<$element>,
            ) -> NativeExpand<$element> {
                $read::expand::<L, R>(scope, &self.inputs, position)
            }

            fn __expand_read_unchecked_method(&self, scope: &Scope, position: Position) -> NativeExpand<$element> {
                $read::expand::<L, R>(scope, &self.inputs, position)
            }

            not_in_memory!($element);
        }
    };
}

/// Operations that CubeK does not use on a view of this kind: those on values that lie in memory as they are, and those
/// that its layout answers.
macro_rules! not_in_memory {
    ($element:ident) => {
        fn __expand_as_linear_slice_method(&self, _: &Scope, _: Position, _: Position) -> &SliceExpand<$element> {
            unreachable!("CubeK copies slices of memory alone, and these values are converted")
        }

        fn __expand_tensor_map_load_method(
            &self,
            _: &Scope,
            _: &barrier::BarrierExpand,
            _: &mut SliceExpand<$element>,
            _: Position,
        ) {
            unreachable!("CubeK copies slices of memory alone, and these values are converted")
        }

        fn __expand_shape_method(&self, _: &Scope) -> Position {
            unreachable!("CubeK asks the layout for the shape")
        }

        fn __expand_is_in_bounds_method(&self, _: &Scope, _: Position) -> NativeExpand<bool> {
            unreachable!("CubeK asks the layout for the bounds")
        }
    };
}

operand!(LeftOperand, LeftOperandExpand, L, left);
operand!(RightOperand, RightOperandExpand, R, right);

impl<O: CubePrimitive> Vectorized for Finished<O> {}
impl<O: CubePrimitive> VectorizedExpand for FinishedExpand<O> {
    fn __expand_vector_size_method(&self, scope: &Scope) -> VectorSize {
        O::__expand_vector_size(scope)
    }
}

impl<O: CubePrimitive> ViewOperations<O, BatchedCoords> for Finished<O> {}
impl<O: CubePrimitive> ViewOperationsExpand<O, BatchedCoords> for FinishedExpand<O> {
    fn __expand_read_method(&self, _: &Scope, _: Position) -> NativeExpand<O> {
        unreachable!("CubeK only writes the result")
    }

    fn __expand_read_checked_method(&self, _: &Scope, _: Position) -> NativeExpand<O> {
        unreachable!("CubeK only writes the result")
    }

    fn __expand_read_masked_method(&self, _: &Scope, _: Position, _: NativeExpand<O>) -> NativeExpand<O> {
        unreachable!("CubeK only writes the result")
    }

    fn __expand_read_unchecked_method(&self, _: &Scope, _: Position) -> NativeExpand<O> {
        unreachable!("CubeK only writes the result")
    }

    not_in_memory!(O);
}

impl<O: CubePrimitive> ViewOperationsMut<O, BatchedCoords> for Finished<O> {}
impl<O: CubePrimitive> ViewOperationsMutExpand<O, BatchedCoords> for FinishedExpand<O> {
    fn __expand_write_method(&self, scope: &Scope, position: Position, value: NativeExpand<O>) {
        finish::expand::<O>(scope, &self.output, position, value);
    }

    fn __expand_write_checked_method(&self, scope: &Scope, position: Position, value: NativeExpand<O>) {
        finish::expand::<O>(scope, &self.output, position, value);
    }

    fn __expand_as_linear_slice_mut_method(&self, _: &Scope, _: Position, _: Position) -> &mut SliceExpand<O> {
        unreachable!("CubeK copies slices of memory alone, and these values are converted")
    }

    fn __expand_tensor_map_store_method(&self, _: &Scope, _: &SliceExpand<O>, _: Position) {
        unreachable!("CubeK copies slices of memory alone, and these values are converted")
    }
}
