// asynq, measured. The command line and the line that it prints are those of benches/rivals/README.md.
//
// It has no bulk: CONCURRENCY goroutines enqueue one by one. Tasks are retained for a day with a written result. An idle server looks
// again after 1 s by default, after RIVAL_POLL_MS here.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

const (
	kind      = "rival:noop"
	retention = 24 * time.Hour
	completed = "asynq:{default}:completed"
)

type line struct {
	Rival       string   `json:"rival"`
	Mode        string   `json:"mode"`
	N           int      `json:"n"`
	Concurrency int      `json:"concurrency"`
	Seconds     float64  `json:"seconds"`
	PerSecond   float64  `json:"per_second"`
	CPUSeconds  float64  `json:"cpu_seconds"`
	P50         *float64 `json:"p50_ms"`
	P99         *float64 `json:"p99_ms"`
}

// When it was enqueued, in nanoseconds of the epoch; zero where nobody asks.
type payload struct {
	At int64 `json:"at"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return errors.New("usage: asynq enqueue|consume|latency REDIS_URL N CONCURRENCY")
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	concurrency, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	at, err := redis.ParseURL(args[1])
	if err != nil {
		return err
	}
	// a connection for each that may ask at once
	broker := asynq.RedisClientOpt{Addr: at.Addr, DB: at.DB, PoolSize: max(20, concurrency+4)}
	var began time.Time
	var cpu float64
	var waited []float64
	switch args[0] {
	case "enqueue":
		began, cpu, err = enqueue(broker, n, concurrency)
	case "consume":
		began, cpu, err = consume(broker, redis.NewClient(at), n, concurrency)
	case "latency":
		began, cpu, waited, err = latency(broker, n, concurrency)
	default:
		err = fmt.Errorf("no such mode: %s", args[0])
	}
	if err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	out := line{"asynq", args[0], n, concurrency, seconds, float64(n) / seconds, cpuSeconds() - cpu, nil, nil}
	if len(waited) > 0 {
		sort.Float64s(waited)
		out.P50, out.P99 = &waited[len(waited)/2], &waited[len(waited)*99/100]
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func enqueue(broker asynq.RedisClientOpt, n, concurrency int) (time.Time, float64, error) {
	client := asynq.NewClient(broker)
	if err := client.Ping(); err != nil {
		return time.Time{}, 0, err
	}
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	began, cpu := time.Now(), cpuSeconds()
	for range concurrency {
		all.Go(func() {
			for next.Add(1) <= int64(n) {
				if err := push(client, payload{}); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return began, cpu, *err
	}
	return began, cpu, nil
}

func consume(broker asynq.RedisClientOpt, results *redis.Client, n, concurrency int) (time.Time, float64, error) {
	var once sync.Once
	var began time.Time
	var cpu float64
	var done atomic.Int64
	last := make(chan struct{})
	err := work(broker, concurrency, func(payload) {
		once.Do(func() { began, cpu = time.Now(), cpuSeconds() })
		if done.Add(1) == int64(n) {
			close(last)
		}
	})
	if err != nil {
		return began, cpu, err
	}
	<-last
	for {
		stored, err := results.ZCard(context.Background(), completed).Result()
		if err != nil || stored >= int64(n) {
			return began, cpu, err
		}
		time.Sleep(time.Millisecond)
	}
}

func latency(broker asynq.RedisClientOpt, n, concurrency int) (time.Time, float64, []float64, error) {
	client := asynq.NewClient(broker)
	seen := make(chan float64, n+1)
	err := work(broker, concurrency, func(p payload) {
		seen <- float64(time.Now().UnixNano()-p.At) / 1e6
	})
	if err != nil {
		return time.Time{}, 0, nil, err
	}
	if err := push(client, payload{time.Now().UnixNano()}); err != nil {
		return time.Time{}, 0, nil, err
	}
	<-seen
	began, cpu := time.Now(), cpuSeconds()
	for i := range n {
		time.Sleep(time.Until(began.Add(time.Duration(i) * 50 * time.Millisecond)))
		if err := push(client, payload{time.Now().UnixNano()}); err != nil {
			return began, cpu, nil, err
		}
	}
	waited := make([]float64, 0, n)
	for range n {
		waited = append(waited, <-seen)
	}
	return began, cpu, waited, nil
}

func push(client *asynq.Client, p payload) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = client.Enqueue(asynq.NewTask(kind, body), asynq.Retention(retention))
	return err
}

// work starts a server whose tasks call begin first, and then write a result.
func work(broker asynq.RedisClientOpt, concurrency int, begin func(payload)) error {
	config := asynq.Config{Concurrency: concurrency, LogLevel: asynq.ErrorLevel}
	if poll := os.Getenv("RIVAL_POLL_MS"); poll != "" {
		ms, err := strconv.Atoi(poll)
		if err != nil {
			return err
		}
		config.TaskCheckInterval = time.Duration(ms) * time.Millisecond
	}
	mux := asynq.NewServeMux()
	mux.HandleFunc(kind, func(_ context.Context, task *asynq.Task) error {
		var p payload
		if err := json.Unmarshal(task.Payload(), &p); err != nil {
			return err
		}
		begin(p)
		_, err := task.ResultWriter().Write([]byte("null"))
		return err
	})
	return asynq.NewServer(broker, config).Start(mux)
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
