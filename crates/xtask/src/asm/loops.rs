//! The innermost loops of a function, from its control-flow graph.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::code::{Instruction, Next};

/// Blocks of instructions without a branch between them; edges go to what may follow.
type Graph = DiGraph<Range<usize>, ()>;

/// The innermost loops, each as its instructions in the order of addresses.
///
/// The targets of a jump through a table are unknown. A missing edge hides the loop that it closes,
/// never one inside.
pub(super) fn innermost(code: &[Instruction]) -> Vec<Vec<&Instruction>> {
    let mut loops = Vec::new();
    collect(&graph(code), &mut loops);
    let instructions =
        |blocks: Vec<Range<usize>>| blocks.into_iter().flat_map(|block| &code[block]);
    let loops = loops
        .into_iter()
        .map(|blocks| instructions(blocks).collect());
    loops.collect()
}

fn graph(code: &[Instruction]) -> Graph {
    let index: BTreeMap<u64, usize> = (0..code.len()).map(|at| (code[at].address, at)).collect();
    // The first instruction begins a block, and so does one that is jumped to or behind a jump.
    let mut starts = BTreeSet::from([0]);
    for (at, one) in code.iter().enumerate() {
        match one.next() {
            Next::Following => continue,
            Next::Branch(target) | Next::Jump(target) => starts.extend(index.get(&target)),
            Next::End => {}
        }
        starts.insert(at + 1);
    }
    starts.retain(|start| *start < code.len());
    let mut graph = Graph::new();
    let len = code.len();
    let ends = starts.iter().skip(1).chain([&len]);
    let blocks: BTreeMap<usize, NodeIndex> = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| (*start, graph.add_node(*start..*end)))
        .collect();
    for block in blocks.values() {
        let end = graph[*block].end;
        let following = Some(&end);
        let at = |target: u64| index.get(&target);
        let successors = match code[end - 1].next() {
            Next::Following => [following, None],
            Next::Branch(target) => [following, at(target)],
            Next::Jump(target) => [at(target), None],
            Next::End => [None, None],
        };
        for successor in successors.into_iter().flatten() {
            if let Some(successor) = blocks.get(successor) {
                graph.update_edge(*block, *successor, ());
            }
        }
    }
    graph
}

/// Blocks that reach each other form a loop. Removing the edges into its header leaves the loops
/// inside.
fn collect(graph: &Graph, found: &mut Vec<Vec<Range<usize>>>) {
    for component in kosaraju_scc(graph) {
        let inside: BTreeSet<NodeIndex> = component.into_iter().collect();
        let enters = |block: &&NodeIndex| {
            graph
                .neighbors_directed(**block, petgraph::Incoming)
                .any(|from| !inside.contains(&from))
        };
        let Some(header) = inside.iter().find(enters).or(inside.first()) else {
            continue;
        };
        if inside.len() == 1 && !graph.contains_edge(*header, *header) {
            continue;
        }
        let inner = graph.filter_map(
            |block, range| inside.contains(&block).then(|| range.clone()),
            |edge, ()| {
                let (_, to) = graph.edge_endpoints(edge)?;
                (to != *header).then_some(())
            },
        );
        let before = found.len();
        collect(&inner, found);
        if found.len() == before {
            found.push(inside.iter().map(|block| graph[*block].clone()).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::innermost;
    use crate::asm::code::Instruction;

    /// The addresses of the innermost loops, of a listing with an instruction for each address from
    /// 0 on.
    fn loops(listing: &[&str]) -> Vec<Vec<u64>> {
        let code: Vec<Instruction> = listing
            .iter()
            .zip(0..)
            .map(|(text, address)| Instruction {
                address,
                text: (*text).to_string(),
            })
            .collect();
        let loops = innermost(&code);
        let addresses = |one: &Vec<&Instruction>| one.iter().map(|one| one.address).collect();
        loops.iter().map(addresses).collect()
    }

    #[test]
    fn straight_code_has_no_loop() {
        assert_eq!(loops(&[]), Vec::<Vec<u64>>::new());
        assert_eq!(
            loops(&["nop", "je 3 <f+0x3>", "nop", "ret"]),
            Vec::<Vec<u64>>::new()
        );
    }

    #[test]
    fn a_loop_of_one_block() {
        assert_eq!(loops(&["nop", "nop", "jne 1 <f+0x1>", "ret"]), [[1, 2]]);
    }

    #[test]
    fn the_inner_one_of_two_loops() {
        let listing = ["nop", "nop", "nop", "jne 2", "dec %rax", "jne 1", "ret"];
        assert_eq!(loops(&listing), [[2, 3]]);
    }

    #[test]
    fn a_loop_with_a_branch_inside_has_both_sides_of_it() {
        let listing = [
            "nop", "je 4", "nop", "jmp 5", "nop", "dec %rax", "jne 0", "ret",
        ];
        assert_eq!(loops(&listing), [[0, 1, 2, 3, 4, 5, 6]]);
    }

    #[test]
    fn an_exit_is_outside() {
        let listing = [
            "cmp %rax,%rbx",
            "jae 4",
            "dec %rax",
            "jmp 0",
            "call 10 <panic_bounds_check>",
            "nop",
        ];
        assert_eq!(loops(&listing), [[0, 1, 2, 3]]);
    }

    #[test]
    fn a_loop_that_only_a_table_of_jumps_leads_to() {
        let listing = ["jmp *%rax", "nop", "jne 1", "jmp 0", "ret"];
        assert_eq!(loops(&listing), [[1, 2]]);
    }
}
