//! Detects a launcher from environment variables.

/// A program that started this one several times, as one job: `mpirun`, `mpiexec`, `srun`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    /// The MPI or batch system that it belongs to.
    pub name: &'static str,
    /// The number of this process within the job, from 0.
    pub rank: usize,
    /// The number of processes in the job.
    pub size: usize,
}

/// Name, and the variables with the number of processes and the rank. Slurm's are those of a step,
/// because a batch script outside of any step has those of its job. `mpirun` within Slurm sets its
/// own, so they come first.
const LAUNCHERS: [(&str, &str, &str); 4] = [
    ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("MPICH", "PMI_SIZE", "PMI_RANK"),
    ("Slurm", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
];

impl Launcher {
    /// The launcher of this process, if there is one.
    pub fn detect() -> Option<Launcher> {
        Launcher::from_variables(|name| std::env::var(name).ok())
    }

    /// Whether output goes through the launcher. Some (Open MPI) then give the process a
    /// pseudo-terminal; a single process of Slurm may have a real one (`srun --pty`).
    pub fn forwards_output(&self) -> bool {
        self.size > 1 || self.name != "Slurm"
    }

    /// The launcher that set these variables.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Launcher> {
        let number = |name| variable(name)?.trim().parse::<usize>().ok();
        LAUNCHERS.into_iter().find_map(|(name, size, rank)| {
            Some(Launcher {
                name,
                rank: number(rank)?,
                size: number(size)?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Launcher;

    fn of(variables: &[(&str, &str)]) -> Option<(&'static str, usize, usize)> {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_string())
        };
        let launcher = Launcher::from_variables(value)?;
        Some((launcher.name, launcher.rank, launcher.size))
    }

    #[test]
    fn launchers_forward_output() {
        let forwards = |name, size| {
            let rank = 0;
            Launcher { name, rank, size }.forwards_output()
        };
        assert!(forwards("Open MPI", 1) && forwards("Slurm", 2));
        assert!(!forwards("Slurm", 1));
    }

    #[test]
    fn launchers_are_detected_by_their_variables() {
        assert_eq!(of(&[]), None);
        let open_mpi = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3")];
        assert_eq!(of(&open_mpi), Some(("Open MPI", 3, 4)));
        assert_eq!(
            of(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]),
            Some(("MPICH", 0, 2))
        );
        let step = [("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_PROCID", "7")];
        assert_eq!(of(&step), Some(("Slurm", 7, 8)));
        // A batch script is one process.
        assert_eq!(of(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]), None);
        assert_eq!(of(&[("PMI_SIZE", "two"), ("PMI_RANK", "0")]), None);
    }
}
