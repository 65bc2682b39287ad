// Command server is gRPC's test service on grpc-go's server, with the settings that end connections.
//
// SIGTERM stops it gracefully, and SIGINT at once. SIGUSR1 makes it report NOT_SERVING, and SIGUSR2 SERVING.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	addr := flag.String("addr", "127.0.0.1:0", "the address")
	certificate := flag.String("cert", "", "a PEM file with the certificate; none is no TLS")
	key := flag.String("key", "", "a PEM file with its key")
	age := flag.Duration("age", 0, "MaxConnectionAge; 0 is none")
	grace := flag.Duration("grace", 0, "MaxConnectionAgeGrace; 0 is none")
	idle := flag.Duration("idle", 0, "MaxConnectionIdle; 0 is none")
	streams := flag.Uint("streams", 0, "MaxConcurrentStreams; 0 is no limit")
	minTime := flag.Duration("min-time", 0, "the enforcement policy's MinTime; 0 is grpc-go's default")
	headers := flag.Uint("headers", 0, "MaxHeaderListSize; 0 is grpc-go's default")
	fail := flag.Int("fail", 0, "how many attempts of each call fail, and ask for the next one after 20 ms")
	flag.Parse()

	options := []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      *age,
			MaxConnectionAgeGrace: *grace,
			MaxConnectionIdle:     *idle,
		}),
	}
	if *streams > 0 {
		options = append(options, grpc.MaxConcurrentStreams(uint32(*streams)))
	}
	if *minTime > 0 {
		options = append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: *minTime}))
	}
	if *headers > 0 {
		options = append(options, grpc.MaxHeaderListSize(uint32(*headers)))
	}
	if *certificate != "" {
		tls, err := credentials.NewServerTLSFromFile(*certificate, *key)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(tls))
	}

	if *fail > 0 {
		options = append(options, failing(*fail)...)
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	checked := health.NewServer()
	healthpb.RegisterHealthServer(server, checked)
	reports := make(chan os.Signal, 1)
	signal.Notify(reports, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for report := range reports {
			status := healthpb.HealthCheckResponse_SERVING
			if report == syscall.SIGUSR1 {
				status = healthpb.HealthCheckResponse_NOT_SERVING
			}
			checked.SetServingStatus("", status)
		}
	}()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Println("listening on", listener.Addr())
	if <-signals == syscall.SIGTERM {
		server.GracefulStop()
	} else {
		server.Stop()
	}
	return <-served
}

// failing returns interceptors by which the first attempts of each call fail.
func failing(attempts int) []grpc.ServerOption {
	attempt := func(ctx context.Context, trailer func(metadata.MD)) error {
		previous := 0
		if values := metadata.ValueFromIncomingContext(ctx, "grpc-previous-rpc-attempts"); len(values) > 0 {
			previous, _ = strconv.Atoi(values[0])
		}
		if previous >= attempts {
			return nil
		}
		trailer(metadata.Pairs("grpc-retry-pushback-ms", "20"))
		return status.Errorf(codes.Unavailable, "after %d attempts", previous)
	}
	unary := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := attempt(ctx, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
	stream := func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := attempt(stream.Context(), stream.SetTrailer); err != nil {
			return err
		}
		return handler(srv, stream)
	}
	return []grpc.ServerOption{grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream)}
}
