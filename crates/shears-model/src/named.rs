//! The parameters of a module by name: the one walk over them, to read and to change.

use std::collections::HashSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// What [`visit_parameters`] does with a parameter.
pub trait ParameterVisitor {
    /// `name` is the parameter's path in the module, for example `layers.0.weight_hh`.
    fn visit<const D: usize>(&mut self, name: String, parameter: &Param<Tensor<D>>);
}

/// Shows a visitor the parameters of a module, from input to output, each once: a tied parameter
/// under the first of its names.
pub fn visit_parameters<M: Module>(module: &M, visitor: &mut impl ParameterVisitor) {
    module.visit(&mut Walk {
        path: Vec::new(),
        seen: HashSet::new(),
        work: visitor,
    });
}

/// What [`map_parameters`] does with a parameter.
pub trait ParameterMapper {
    /// The parameter in place of one, see [`ParameterVisitor::visit`]. A tied parameter comes once
    /// for each of its places, with the name that it has there.
    fn map<const D: usize>(
        &mut self,
        name: String,
        parameter: Param<Tensor<D>>,
    ) -> Param<Tensor<D>>;
}

/// The module with every parameter replaced by what the mapper makes of it.
pub fn map_parameters<M: Module>(module: M, mapper: &mut impl ParameterMapper) -> M {
    module.map(&mut Walk {
        path: Vec::new(),
        seen: HashSet::new(),
        work: mapper,
    })
}

/// Where a walk over a module stands.
struct Walk<'a, W> {
    path: Vec<String>,
    seen: HashSet<ParamId>,
    work: &'a mut W,
}

impl<W: ParameterVisitor> ModuleVisitor for Walk<'_, W> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if self.seen.insert(parameter.id) {
            self.work.visit(self.path.join("."), parameter);
        }
    }
}

impl<W: ParameterMapper> ModuleMapper for Walk<'_, W> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.work.map(self.path.join("."), parameter)
    }
}
