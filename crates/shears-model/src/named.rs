//! Visiting and mapping the parameters of a module by name.

use std::collections::HashSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// The visitor of [`visit_parameters`].
pub trait ParameterVisitor {
    /// `name` is the parameter's path in the module, for example `layers.0.weight_hh`.
    fn visit<const D: usize>(&mut self, name: String, parameter: &Param<Tensor<D>>);
}

/// Visits the parameters of a module, from input to output, each once: a tied parameter under its
/// first name.
pub fn visit_parameters<M: Module>(module: &M, visitor: &mut impl ParameterVisitor) {
    module.visit(&mut Walk {
        path: Vec::new(),
        seen: HashSet::new(),
        work: visitor,
    });
}

/// The mapper of [`map_parameters`].
pub trait ParameterMapper {
    /// Replaces a parameter; for `name` see [`ParameterVisitor::visit`]. Called for each occurrence
    /// of a tied parameter, with the name of that occurrence.
    fn map<const D: usize>(
        &mut self,
        name: String,
        parameter: Param<Tensor<D>>,
    ) -> Param<Tensor<D>>;
}

/// Replaces every parameter of a module by the result of the mapper.
pub fn map_parameters<M: Module>(module: M, mapper: &mut impl ParameterMapper) -> M {
    module.map(&mut Walk {
        path: Vec::new(),
        seen: HashSet::new(),
        work: mapper,
    })
}

/// The state of a traversal.
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
