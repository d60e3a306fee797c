// A signaling server that behaves as the Go lab's does, for measuring ours beside it: net/http, one lock that is held
// while a message is handed over, a channel without a buffer for each receiver, and every message in the log.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"sync"
	"time"
)

type message struct {
	Type    string `json:"type"`
	Content string `json:"content"`
	To      string `json:"to"`
	From    string `json:"from"`
}

var (
	mutex     sync.Mutex
	receivers = map[string]chan message{}
)

func send(w http.ResponseWriter, r *http.Request) {
	var m message
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	log.Printf("message %s from %s to %s: %s", m.Type, m.From, m.To, m.Content)
	mutex.Lock()
	defer mutex.Unlock()
	receiver, ok := receivers[m.To]
	if !ok {
		http.Error(w, "recipient not found", http.StatusNotFound)
		return
	}
	receiver <- m
	w.WriteHeader(http.StatusOK)
}

func receive(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if id == "" {
		http.Error(w, "missing client ID", http.StatusBadRequest)
		return
	}
	flusher, ok := w.(http.Flusher)
	if !ok {
		http.Error(w, "no streaming", http.StatusInternalServerError)
		return
	}
	incoming := make(chan message)
	mutex.Lock()
	receivers[id] = incoming
	mutex.Unlock()
	defer func() {
		mutex.Lock()
		delete(receivers, id)
		mutex.Unlock()
	}()
	encoder := json.NewEncoder(w)
	wrote := false
	for {
		select {
		case m := <-incoming:
			if err := encoder.Encode(m); err != nil {
				return
			}
			flusher.Flush()
			wrote = true
		case <-time.After(120 * time.Second):
			if !wrote {
				w.WriteHeader(http.StatusNoContent)
			}
			return
		case <-r.Context().Done():
			return
		}
	}
}

func main() {
	port := flag.Int("port", 8080, "the port to listen on")
	flag.Parse()
	http.HandleFunc("/send", send)
	http.HandleFunc("/receive", receive)
	log.Fatal(http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *port), nil))
}
