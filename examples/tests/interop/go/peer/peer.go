// Package peer is a server, a client and a lister on Go's own packages: what hither's Rust side is put beside.
//
// Each folder next to this one is a module that builds it with other versions of those packages.
package peer

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The service's messages have one string each, field 1: on the wire a StringValue.
const method = "/discover.DiscoverDemo/Discover"

type options struct {
	etcd     string
	service  string
	addr     string
	lease    time.Duration
	count    int
	interval time.Duration
	timeout  time.Duration
	metadata string
}

// Main runs the command that the arguments name.
func Main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: peer server|client|list|put|delete [flags]")
	}
	var o options
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&o.etcd, "etcd", "127.0.0.1:2379", "endpoints of etcd, comma separated")
	flags.StringVar(&o.service, "service", "grpc-demo/grpc/discover-demo", "the service")
	flags.StringVar(&o.addr, "addr", "127.0.0.1:0", "the server's address")
	flags.DurationVar(&o.lease, "lease", 0, "the record's time to live; 0 is none")
	flags.IntVar(&o.count, "count", 10, "how many calls")
	flags.DurationVar(&o.interval, "interval", 50*time.Millisecond, "between calls")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Second, "for each call")
	flags.StringVar(&o.metadata, "metadata", "", "metadata of the record, as JSON")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(o.etcd, ","),
		DialTimeout: 5 * time.Second,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch args[0] {
	case "server":
		return serve(ctx, client, o)
	case "client":
		return call(ctx, client, o)
	case "list":
		return list(ctx, client, o)
	case "put":
		return put(ctx, client, o)
	case "delete":
		return remove(ctx, client, o)
	}
	return fmt.Errorf("no command %q", args[0])
}

func serve(ctx context.Context, client *clientv3.Client, o options) error {
	listener, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	o.addr = listener.Addr().String()
	_, port, err := net.SplitHostPort(o.addr)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "discover.DiscoverDemo",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Discover",
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				request := new(wrapperspb.StringValue)
				if err := decode(request); err != nil {
					return nil, err
				}
				return wrapperspb.String(fmt.Sprintf("request content from %s => %s", port, request.Value)), nil
			},
		}},
	}, nil)
	var serving sync.WaitGroup
	serving.Add(1)
	go func() {
		defer serving.Done()
		if err := server.Serve(listener); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
		}
	}()
	fmt.Println("listening on", o.addr)
	if err := put(ctx, client, o); err != nil {
		return err
	}
	<-ctx.Done()
	if err := remove(context.Background(), client, o); err != nil {
		return err
	}
	server.GracefulStop()
	serving.Wait()
	return nil
}

// put writes the record as Go's manager does, and keeps its lease alive for as long as ctx lives.
func put(ctx context.Context, client *clientv3.Client, o options) error {
	manager, err := endpoints.NewManager(client, o.service)
	if err != nil {
		return err
	}
	endpoint := endpoints.Endpoint{Addr: o.addr}
	if o.metadata != "" {
		if err := json.Unmarshal([]byte(o.metadata), &endpoint.Metadata); err != nil {
			return err
		}
	}
	var with []clientv3.OpOption
	if o.lease > 0 {
		granted, err := client.Grant(ctx, int64(o.lease.Seconds()))
		if err != nil {
			return err
		}
		alive, err := client.KeepAlive(ctx, granted.ID)
		if err != nil {
			return err
		}
		go func() {
			for range alive {
			}
		}()
		with = append(with, clientv3.WithLease(granted.ID))
	}
	if err := manager.AddEndpoint(ctx, o.service+"/"+o.addr, endpoint, with...); err != nil {
		return err
	}
	fmt.Printf("registered %s as %s\n", o.service, o.addr)
	return nil
}

func remove(ctx context.Context, client *clientv3.Client, o options) error {
	manager, err := endpoints.NewManager(client, o.service)
	if err != nil {
		return err
	}
	if err := manager.DeleteEndpoint(ctx, o.service+"/"+o.addr); err != nil {
		return err
	}
	fmt.Printf("removed %s from %s\n", o.addr, o.service)
	return nil
}

func list(ctx context.Context, client *clientv3.Client, o options) error {
	manager, err := endpoints.NewManager(client, o.service)
	if err != nil {
		return err
	}
	found, err := manager.List(ctx)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(found))
	for key := range found {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		metadata, err := json.Marshal(found[key].Metadata)
		if err != nil {
			return err
		}
		fmt.Printf("%s %s %s\n", key, found[key].Addr, metadata)
	}
	return nil
}

func call(ctx context.Context, client *clientv3.Client, o options) error {
	builder, err := resolver.NewBuilder(client)
	if err != nil {
		return err
	}
	connection, err := grpc.Dial( //nolint:staticcheck // NewClient is not in the oldest version built here.
		"etcd:///"+o.service,
		grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
	)
	if err != nil {
		return err
	}
	defer connection.Close()
	failed := 0
	for i := 0; i < o.count && ctx.Err() == nil; i++ {
		if i > 0 {
			time.Sleep(o.interval)
		}
		if !one(ctx, connection, i, o) {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d calls failed", failed)
	}
	return nil
}

func one(ctx context.Context, connection *grpc.ClientConn, i int, o options) bool {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	answer := new(wrapperspb.StringValue)
	// The first call waits for the first address; later ones must find a server at once.
	err := connection.Invoke(ctx, method, wrapperspb.String(fmt.Sprint(i)), answer, grpc.WaitForReady(i == 0))
	if err != nil {
		fmt.Printf("%d: error: %v\n", i, err)
		return false
	}
	fmt.Printf("%d: content:%q\n", i, answer.Value)
	return true
}
