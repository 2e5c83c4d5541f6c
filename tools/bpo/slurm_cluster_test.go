package main

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cluster is a Slurm of one node, this machine, which lives as long as its test.
type cluster struct {
	dir, node string
	slurmd    *exec.Cmd
}

// startCluster starts munged, slurmctld and slurmd with a configuration, key, sockets and ports of their own, and points
// Slurm's commands at them.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	for _, name := range []string{"munged", "slurmctld", "slurmd", "sbatch"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("no %s here (apt-get install slurm-wlm munge)", name)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("slurmd and munged want to be started by root")
	}
	dir, err := os.MkdirTemp("", "slurm-") // short: sockets have paths of at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	node, _, _ := strings.Cut(host, ".")
	key := make([]byte, 1024)
	rand.Read(key)
	conf := fmt.Sprintf(`ClusterName=test
SlurmctldHost=%[2]s(127.0.0.1)
SlurmctldPort=%[3]d
SlurmdPort=%[4]d
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits as long as a credential lives: 120 s unless said otherwise.
AuthInfo=socket=%[1]s/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=%[1]s/state
SlurmdSpoolDir=%[1]s/spool
SlurmctldPidFile=%[1]s/slurmctld.pid
SlurmdPidFile=%[1]s/slurmd.pid
SlurmctldLogFile=%[1]s/slurmctld.log
SlurmdLogFile=%[1]s/slurmd.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=5
NodeName=%[2]s NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes=%[2]s Default=YES State=UP
`, dir, node, freePort(t), freePort(t))
	for name, raw := range map[string][]byte{"munge.key": key, "slurm.conf": []byte(conf)} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"state", "spool"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLURM_CONF", filepath.Join(dir, "slurm.conf"))
	c := &cluster{dir: dir, node: node}
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"slurmctld.log", "slurmd.log"} {
				raw, _ := os.ReadFile(filepath.Join(dir, name))
				t.Logf("%s ends with\n%s", name, raw[max(0, len(raw)-4000):])
			}
		}
	})
	c.daemon(t, "munged", "--foreground", "--force", "--num-threads=2", "--key-file="+dir+"/munge.key", "--socket="+dir+"/munge.sock",
		"--pid-file="+dir+"/munged.pid", "--log-file="+dir+"/munged.log", "--seed-file="+dir+"/munged.seed")
	waitFor(t, time.Minute, "munged's socket", func() bool { _, err := os.Stat(dir + "/munge.sock"); return err == nil })
	c.daemon(t, "slurmctld", "-D", "-c")
	c.slurmd = c.daemon(t, "slurmd", "-D", "-N", node)
	c.waitUp(t)
	t.Cleanup(func() { // before the daemons end, so that no task outlives them
		exec.Command("scancel", "--user=root").Run()
		for range 100 {
			if out, err := exec.Command("squeue", "--noheader").Output(); err != nil || len(out) == 0 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return c
}

// powerOff ends the node with the task that runs there as a loss of power does, and tells Slurm what it would find out
// by itself after SlurmdTimeout.
func (c *cluster) powerOff(t *testing.T, task int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", task))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	step, err := strconv.Atoi(strings.Fields(rest)[1]) // its parent, Slurm's slurmstepd
	if err != nil || step == os.Getpid() || step <= 1 {
		t.Fatalf("the task's parent is %d, %v", step, err)
	}
	for _, pid := range []int{c.slurmd.Process.Pid, step, task} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	slurm(t, "scontrol", "update", "nodename="+c.node, "state=down", "reason=test")
}

func (c *cluster) powerOn(t *testing.T) {
	t.Helper()
	c.slurmd = c.daemon(t, "slurmd", "-D", "-N", c.node)
	slurm(t, "scontrol", "update", "nodename="+c.node, "state=resume")
	c.waitUp(t)
}

// daemon starts a process that ends with the test.
func (c *cluster) daemon(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	log, err := os.OpenFile(filepath.Join(c.dir, name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
	})
	return cmd
}

// waitUp waits until the node takes jobs.
func (c *cluster) waitUp(t *testing.T) {
	t.Helper()
	waitFor(t, time.Minute, "the node to be up", func() bool {
		out, _ := exec.Command("sinfo", "--noheader", "--format=%T").Output()
		state := strings.TrimSpace(string(out))
		return state == "idle" || state == "mixed" || state == "allocated"
	})
}

// slurm runs one of Slurm's commands.
func slurm(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func waitFor(t *testing.T, most time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(most); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", most, what)
		}
	}
}
