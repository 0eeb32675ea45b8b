package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"nfproxy/config"
	"nfproxy/running"
)

// runningDaemon is the daemon that runs in this network namespace, with its settings.
type runningDaemon struct {
	running.Daemon
	config.Settings
}

// daemonOf finds the daemon of the instance that the flags of a command name, or the only one if they name none. Its settings are those
// of its arguments, its environment and the file of --config as it is now. This process gets the environment of the daemon.
func daemonOf(c *cli.Context) (runningDaemon, error) {
	named, name := c.IsSet(serviceProxyNameFlag), c.String(serviceProxyNameFlag)
	all, err := running.Find()
	if err != nil {
		return runningDaemon{}, err
	}
	found := make(map[string]runningDaemon) // by instance; of several daemons of an instance one works, and the others wait
	var broken error
	for _, d := range all {
		settings, err := settingsOf(d)
		if err != nil {
			broken = errors.Join(broken, fmt.Errorf("settings of the nfproxy daemon, process %d: %w", d.PID, err))
			continue
		}
		instance := settings.Node.Instance.Name()
		if _, known := found[instance]; !known {
			found[instance] = runningDaemon{d, settings}
		}
	}
	names := slices.Sorted(maps.Keys(found))
	if !named && len(names) == 1 {
		name = names[0]
	}
	d, ok := found[name]
	switch {
	case ok:
		return d, d.AdoptEnvironment()
	case broken != nil:
		return d, broken
	case !named && len(names) > 1:
		return d, fmt.Errorf("nfproxy daemons of several service proxy names run in this network namespace; choose one with --%s: %s",
			serviceProxyNameFlag, strings.Join(names, ", "))
	}
	return d, noDaemonError(name)
}

// serviceProxyNameFlag is the name of config.InstanceFlag.
const serviceProxyNameFlag = "service-proxy-name"

// noDaemonError returns the error of commands that need a running daemon of an instance with a name where there is none.
func noDaemonError(name string) error {
	if name == "" {
		return errors.New("no nfproxy daemon runs in this network namespace; in a cluster, run this command in nfproxy's container on a node")
	}
	return fmt.Errorf("no nfproxy daemon of the service proxy name %s runs in this network namespace", name)
}

// settingsOf returns the settings of a daemon. It gives this process the environment of the daemon.
func settingsOf(d running.Daemon) (settings config.Settings, err error) {
	if err := d.AdoptEnvironment(); err != nil {
		return settings, err
	}
	app := &cli.App{
		HideHelp: true, Writer: io.Discard, ErrWriter: io.Discard,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Commands: []*cli.Command{{Name: "run", HideHelp: true, Flags: config.Flags(), OnUsageError: usageError, Action: func(c *cli.Context) error {
			var file []byte
			if path := c.String("config"); path != "" {
				var err error
				if file, err = d.ReadFile(path); err != nil {
					return err
				}
			}
			var err error
			settings, _, err = config.FromCLI(c, file)
			return err
		}}},
	}
	return settings, app.Run(append([]string{"nfproxy"}, d.Args...))
}
