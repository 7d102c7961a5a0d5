// Peer is the other side of the streaming server's tests: client-go and moby/spdystream, which is what crictl, kubelet and
// kubectl are made of, and nothing of ours. It takes a URL that the server gave out and says by its exit status how that
// went: the executed command's own exit code, or 125 for anything else that went wrong.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var (
	address     = flag.String("url", "", "what the server gave out")
	protocol    = flag.String("protocol", "spdy", "spdy, tunnel, or the name of a WebSocket protocol")
	stdin       = flag.Bool("stdin", false, "send standard input")
	tty         = flag.Bool("tty", false, "ask for a terminal, of 100 columns and 30 rows")
	port        = flag.Int("port", 0, "the pod's port, on which something must send everything back")
	connections = flag.Int("connections", 1, "how many connections at once")
	size        = flag.Int64("bytes", 1<<20, "how much each of them sends")
)

func main() {
	flag.Parse()
	var err error
	switch flag.Arg(0) {
	case "command":
		err = command()
	case "forward":
		err = forward()
	default:
		err = errors.New("command or forward")
	}
	var exit exec.CodeExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.Code)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
}

// sizes is a terminal that never changes.
type sizes struct{ told bool }

func (s *sizes) Next() *remotecommand.TerminalSize {
	if s.told {
		select {}
	}
	s.told = true
	return &remotecommand.TerminalSize{Width: 100, Height: 30}
}

func config() *rest.Config {
	return &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func command() error {
	target, err := url.Parse(*address)
	if err != nil {
		return err
	}
	var executor remotecommand.Executor
	if *protocol == "spdy" {
		executor, err = remotecommand.NewSPDYExecutor(config(), "POST", target)
	} else {
		executor, err = remotecommand.NewWebSocketExecutorForProtocols(config(), "GET", *address, *protocol)
	}
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Stderr: os.Stderr, Tty: *tty}
	if *stdin {
		options.Stdin = os.Stdin
	}
	if *tty {
		options.Stderr = nil
		options.TerminalSizeQueue = &sizes{}
	}
	return executor.StreamWithContext(context.Background(), options)
}

func forward() error {
	target, err := url.Parse(*address)
	if err != nil {
		return err
	}
	transport, upgrader, err := spdy.RoundTripperFor(config())
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", target)
	if *protocol == "tunnel" {
		dialer, err = portforward.NewSPDYOverWebsocketDialer(target, config())
		if err != nil {
			return err
		}
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	failed := make(chan error, *connections+1)
	forwarder, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", *port)}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	go func() {
		if err := forwarder.ForwardPorts(); err != nil {
			failed <- err
		}
	}()
	select {
	case <-ready:
	case err := <-failed:
		return err
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	for i := range *connections {
		go func() { failed <- echo(int64(i), ports[0].Local) }()
	}
	var errs []string
	for range *connections {
		if err := <-failed; err != nil {
			errs = append(errs, err.Error())
		}
	}
	close(stop)
	if len(errs) > 0 {
		return errors.New(strings.Join(errs, "\n"))
	}
	return nil
}

// echo sends bytes that depend on the seed, says that it is done, and expects all of them back.
func echo(seed int64, port uint16) error {
	connection, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	sent, got := sha256.New(), sha256.New()
	source := io.TeeReader(io.LimitReader(rand.New(rand.NewSource(seed)), *size), sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := io.Copy(connection, source)
		if err == nil {
			err = connection.(*net.TCPConn).CloseWrite()
		}
		wrote <- err
	}()
	length, err := io.Copy(got, connection)
	if err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	if length != *size || string(got.Sum(nil)) != string(sent.Sum(nil)) {
		return fmt.Errorf("%d of %d bytes came back, or other ones", length, *size)
	}
	return nil
}
